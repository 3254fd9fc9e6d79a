//! `column_ranges`: all but the rows that each key's column names (FlashMask, arXiv 2410.01359).

use super::sample::LEN;
use super::{
    Argument, Cell, Differs, Kind, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::check::Values;
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `column_ranges`: all but the rows that each key's column names. One bound masks the rows from it on, two mask
    /// `start..end`, four two such ranges. FlashMask's causal forms are `causal & column_ranges` (arXiv 2410.01359).
    pub const ColumnRanges: Self = Self::Leaf(Leaf::plain(&ColumnRanges));

    /// `column_ranges(bidirectional)`: of two bounds, the rows from the first on and those before the second are masked.
    pub const fn column_ranges_bidirectional() -> Self {
        Self::Leaf(Leaf::with(&ColumnRanges, [Value::Choice(BIDIRECTIONAL)]))
    }
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `column_ranges`, i32 `[batch, num_heads|1, seq_len_kv, 1, 2 or 4]`: rows.
    pub const ColumnRanges: Self = Self::named("column_ranges");
}

impl AuxData {
    /// `column_ranges`, of sizes `[batch, num_heads|1, seq_len_kv, 1, 2 or 4]`: rows from 0 to `seq_len_q`.
    #[must_use]
    pub fn column_ranges(self, dims: [usize; 4], rows: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::ColumnRanges, rows).sized(AuxTensor::ColumnRanges, dims)
    }
}

const FORMS: &[&str] = &["ranges", "bidirectional"];
const BIDIRECTIONAL: usize = 1;

fn is_bidirectional(leaf: &Leaf) -> bool {
    leaf.values()[0] == Value::Choice(BIDIRECTIONAL)
}

/// Bounds are rows; where a column has starts and ends, none starts after its end.
fn check_rows(values: &Values<'_>) -> Result<()> {
    let seq_len_q = values.shape.seq_len_q;
    values.each(|_, row| {
        let fits = usize::try_from(row).is_ok_and(|row| row <= seq_len_q);
        (!fits).then(|| format!("0 to seq_len_q = {seq_len_q}"))
    })?;
    if values.sizes.last() != Some(&4) {
        return Ok(());
    }
    for (at, pair) in values.words.chunks_exact(2).enumerate() {
        let (start, end) = (pair[0].cast_signed(), pair[1].cast_signed());
        if start > end {
            return Err(Error::operand(
                format!("{}[{}]", values.input, at * 2),
                "a start that isn't after its end",
                format!("{start}..{end}"),
            ));
        }
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct ColumnRanges;

impl LeafSpec for ColumnRanges {
    fn name(&self) -> &'static str {
        "column_ranges"
    }

    fn arguments(&self) -> &'static [Argument] {
        &[Argument { name: "form", kind: Kind::Choice { words: FORMS, or_offset: false } }]
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[
            (
                "column_ranges",
                "every key, except in the rows that its column_ranges give:\n\
             integers [batch, heads or 1, seq_len_kv, 1: start, 2: start end, 4: two ranges] (FlashMask)",
            ),
            (
                "column_ranges(bidirectional)",
                "every key, except in the rows from the first bound on and before the second",
            ),
        ]
    }

    fn source(&self) -> &'static str {
        "FlashMask, [arXiv 2410.01359](https://arxiv.org/abs/2410.01359)"
    }

    fn tensors(&self, leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let bounds = match is_bidirectional(leaf) {
            true => AuxDim::new("2", "2", [2]),
            false => AuxDim::new("1, 2 or 4", "1, 2 or 4", [1, 2, 4]),
        };
        let dims = [AuxDim::batch(shape), AuxDim::heads_or_1(shape), AuxDim::keys(shape), bounds];
        vec![AuxSpec::new(AuxTensor::ColumnRanges, AuxElement::I32, dims).checked(check_rows)]
    }

    fn differs(&self, sizes: &Sizes<'_>) -> Differs {
        Differs { batch: true, heads: sizes.size(AuxTensor::ColumnRanges, 1) != 1 }
    }

    fn slots(&self, leaf: &Leaf) -> Vec<Slot> {
        vec![
            Slot::Start(AuxTensor::ColumnRanges),
            Slot::Stride(AuxTensor::ColumnRanges, 0),
            Slot::Stride(AuxTensor::ColumnRanges, 1),
            match is_bidirectional(leaf) {
                // The form of two bounds that aren't a range.
                true => Slot::Number(3),
                false => Slot::Size(AuxTensor::ColumnRanges, 3),
            },
        ]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let bounds = cell.sizes(AuxTensor::ColumnRanges).last().copied().unwrap_or_default();
        let bound = |at| {
            let word = cell.word(AuxTensor::ColumnRanges, [cell.b, cell.h, cell.kv_idx, at]);
            i64::from(word.cast_signed())
        };
        let (q, within) = (cell.q(), |start, end| (bound(start)..bound(end)).contains(&cell.q()));
        !match bounds {
            2 if is_bidirectional(leaf) => q >= bound(0) || q < bound(1),
            2 => within(0, 1),
            4 => within(0, 1) || within(2, 3),
            _ => q >= bound(0),
        }
    }

    fn shader(&self) -> Shader {
        shader!("column_ranges")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        // Each third column masks the rows that come 4 to 9 after its own.
        let ranges = (0..LEN).flat_map(|key| {
            let end = LEN.min(if key % 3 == 0 { key + 10 } else { 0 });
            [LEN.min(key + 4).min(end) as i32, end as i32]
        });
        // A column is seen from 6 rows before its own to 3 rows after it.
        let band = (0..LEN).flat_map(|key| [LEN.min(key + 4) as i32, key.saturating_sub(6) as i32]);
        let data = |rows: Vec<i32>| AuxData::new().column_ranges([1, 1, LEN, 2], rows);
        let bidirectional = MaskSample {
            name: "column_ranges_bidirectional",
            ..MaskSample::new(
                self,
                Mask::column_ranges_bidirectional(),
                "All but the rows from the first bound on and those before the second.",
            )
        };
        vec![
            MaskSample::new(
                self,
                Mask::ColumnRanges,
                "All but the rows that each key's column names: from a start on, from start to end, or two such ranges.",
            )
            .data(data(ranges.collect())),
            bidirectional.data(data(band.collect())),
        ]
    }

    fn random_data(&self, leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let bounds = if is_bidirectional(leaf) { 2 } else { random.one_of([1, 2, 4]) };
        let dims = [shape.batch, random.one_of([shape.num_heads, 1]), shape.seq_len_kv, bounds];
        let mut rows = random.ints(dims.iter().product(), shape.seq_len_q);
        for range in rows.chunks_mut(2).filter(|_| bounds == 4) {
            range.sort_unstable();
        }
        AuxData::new().column_ranges(dims, rows)
    }
}
