//! A mask's value at a cell, on the CPU: the definition that everything else is held against.

use super::Mask;
use super::leaf::Cell;
use super::places::Places;
use crate::auxiliary::{self, AuxData};
use crate::error::{Error, Result};
use crate::tensor::shape::Shape;

/// A mask with its data, ready to be asked cell by cell.
///
/// ```
/// use wgpu_attention::{Mask, AuxData, Shape};
/// use wgpu_attention::mask::Evaluator;
/// let shape = Shape::new(1, 1, 3, 8);
/// let data = AuxData::new();
/// let causal = Mask::causal();
/// let mask = Evaluator::new(&causal, &data, &shape)?;
/// assert!(mask.keep(0, 0, 2, 1) && !mask.keep(0, 0, 1, 2));
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Evaluator<'a> {
    mask: &'a Mask,
    data: &'a AuxData,
    shape: &'a Shape,
}

impl<'a> Evaluator<'a> {
    /// Binds the mask to its data.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] where data is missing or doesn't fit the shape.
    pub fn new(mask: &'a Mask, data: &'a AuxData, shape: &'a Shape) -> Result<Self> {
        shape.validate()?;
        mask.check(shape)?;
        if !mask.customs().is_empty() {
            return Err(Error::operand(
                "wgsl",
                "a mask that the CPU can evaluate",
                format!("`{mask}`"),
            ));
        }
        let mut tensors = mask.aux_specs(shape);
        tensors.extend(auxiliary::sequences::tensors(shape));
        data.check(&tensors, shape)?;
        Ok(Self { mask, data, shape })
    }

    /// The lengths of the sequences, and where they lie.
    pub(crate) const fn places(&self) -> Places<'a> {
        Places::new(self.shape, self.data)
    }

    /// Whether query `q_idx` of head `h` of sequence `b` attends to key `kv_idx`; never beyond the sequence's own lengths.
    ///
    /// # Panics
    /// Where an index is outside the shape.
    pub fn keep(&self, b: usize, h: usize, q_idx: usize, kv_idx: usize) -> bool {
        let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *self.shape;
        assert!(
            b < batch && h < num_heads && q_idx < seq_len_q && kv_idx < seq_len_kv,
            "cell ({b}, {h}, {q_idx}, {kv_idx}) lies outside [{batch}, {num_heads}, {seq_len_q}, {seq_len_kv}]"
        );
        let places = self.places();
        q_idx < places.q_len(b)
            && kv_idx < places.kv_len(b)
            && self
                .node(self.mask, &Cell::new([b, h, q_idx, kv_idx], &places, self.shape, self.data))
    }

    fn node(&self, mask: &Mask, cell: &Cell<'_>) -> bool {
        match mask {
            Mask::Leaf(leaf) => leaf.keep(cell),
            Mask::SelfOnlyIfAlone(inner) => {
                let kept = |kv_idx: usize| self.node(inner, &Cell { kv_idx, ..*cell });
                let own = cell.own();
                let mut others =
                    (0..self.places().kv_len(cell.b)).filter(|&other| other as i64 != own);
                kept(cell.kv_idx) && (cell.kv() != own || !others.any(kept))
            }
            // Evaluator::new refuses it.
            Mask::Wgsl(_) => false,
            Mask::PerHead(masks) => {
                self.node(&masks[cell.h / (self.shape.num_heads / masks.len())], cell)
            }
            Mask::And(left, right) => self.node(left, cell) && self.node(right, cell),
            Mask::Or(left, right) => self.node(left, cell) || self.node(right, cell),
            Mask::Not(inner) => !self.node(inner, cell),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a mask with a matrix drawn by hand, one row per query, `.` where kept and `X` where masked.
    fn check(mask: &str, data: &AuxData, seq_len_kv: usize, rows: &[&str]) {
        let shape = Shape::new(1, 1, rows.len(), 8).seq_len_kv(seq_len_kv);
        let mask: Mask = mask.parse().unwrap();
        let evaluator = Evaluator::new(&mask, data, &shape).unwrap();
        let drawn: Vec<String> = (0..rows.len())
            .map(|q_idx| {
                let cell = |kv_idx| if evaluator.keep(0, 0, q_idx, kv_idx) { '.' } else { 'X' };
                (0..seq_len_kv).map(cell).collect()
            })
            .collect();
        assert_eq!(drawn, rows, "{mask}");
    }

    #[test]
    fn causal_alignments() {
        let none = AuxData::new();
        check("causal", &none, 3, &[".XX", "..X", "..."]);
        check("causal", &none, 5, &["...XX", "....X", "....."]);
        check("causal", &none, 2, &["XX", "XX", ".X", ".."]);
        check("causal(upper_left)", &none, 5, &[".XXXX", "..XXX", "...XX"]);
        check("causal(offset=1)", &none, 4, &["..XX", "...X", "...."]);
        check("causal(offset=-1)", &none, 3, &["XXX", ".XX", "..X"]);
    }

    #[test]
    fn windows() {
        let none = AuxData::new();
        check("window(1,0)", &none, 4, &[".XXX", "..XX", "X..X", "XX.."]);
        check("window(0,1)", &none, 4, &["..XX", "X..X", "XX..", "XXX."]);
        check("window(inf,0)", &none, 3, &[".XX", "..X", "..."]);
        check("window(0,inf)", &none, 3, &["...", "X..", "XX."]);
        check("window(1,0)", &none, 4, &["X..X", "XX.."]);
    }

    #[test]
    fn padding() {
        let rows = &["..XX", "..XX"];
        check("key_lengths", &AuxData::new().key_lengths([2]), 4, rows);
        check("prefix", &AuxData::new().prefix_lengths([2]), 4, rows);
        check("key_padding", &AuxData::new().key_padding([true, true, false, false]), 4, rows);
        check("token_padding", &AuxData::new().token_ids([7, 8, 0, 0], 0), 4, rows);
        // Left padding.
        check("token_padding", &AuxData::new().token_ids([-1, 8, 0, 0], -1), 4, &["X...", "X..."]);
        check("causal & key_lengths", &AuxData::new().key_lengths([2]), 3, &[".XX", "..X", "..X"]);
    }

    #[test]
    fn documents_and_prefix() {
        let data = AuxData::new().document_ids([0, 0, 1, 1]).prefix_lengths([2]);
        check("documents", &data, 4, &["..XX", "..XX", "XX..", "XX.."]);
        check("documents & causal", &data, 4, &[".XXX", "..XX", "XX.X", "XX.."]);
        check("prefix | causal", &data, 4, &["..XX", "..XX", "...X", "...."]);
        let crossed = AuxData::new().document_ids_q_kv([1, 0], [0, 1, 1]);
        check("documents", &crossed, 3, &["X..", ".XX"]);
    }

    #[test]
    fn self_exclusion() {
        let none = AuxData::new();
        check("not_self", &none, 3, &["X..", ".X.", "..X"]);
        check("not_self", &none, 4, &["..X.", "...X"]);
        check("causal & not_self", &none, 3, &["XXX", ".XX", "..X"]);
        // The first token has nothing but itself.
        check("self_only_if_alone(causal)", &none, 3, &[".XX", ".XX", "..X"]);
        check("self_only_if_alone(all)", &none, 1, &["."]);
        let data = AuxData::new().document_ids([0, 0, 1]);
        check("self_only_if_alone(documents)", &data, 3, &["X.X", ".XX", "XX."]);
    }

    #[test]
    fn dilation_beyond_64_bits() {
        let none = AuxData::new();
        check("dilated(4294967295,4294967295)", &none, 3, &[".XX", "X.X", "XX."]);
    }

    #[test]
    fn strides_chunks_and_global_tokens() {
        let none = AuxData::new();
        check("chunk(2)", &none, 5, &["..XXX", "..XXX", "XX..X", "XX..X", "XXXX."]);
        check("chunk(2)", &none, 4, &["XX..", "XX.."]);
        check("chunk(2)", &none, 2, &["XX", "..", ".."]);
        check("strided(2)", &none, 4, &[".X.X", "X.X.", ".X.X", "X.X."]);
        check(
            "dilated(1,2)",
            &none,
            6,
            &[".X.XXX", "X.X.XX", ".X.X.X", "X.X.X.", "XX.X.X", "XXX.X."],
        );
        check("dilated(0,3)", &none, 3, &[".XX", "X.X", "XX."]);
        check("global(1)", &none, 3, &["...", ".XX", ".XX"]);
        check("global(2)", &none, 4, &["..XX", "..XX"]);
    }

    #[test]
    fn blocks_and_buckets() {
        let data = AuxData::new().block_ids([-1, 0, 0, -1]);
        check("block_bidirectional", &data, 4, &["XXXX", "X..X", "X..X", "XXXX"]);
        check("causal | block_bidirectional", &data, 4, &[".XXX", "...X", "...X", "...."]);
        let rounds = AuxData::new().bucket_ids([1, 1, 2, 4], [0, 1, 0, 2, 5, 6, 7, 5]);
        check("buckets", &rounds, 4, &[".X..", "X.XX", ".X.X", ".XX."]);
        check("buckets", &rounds, 4, &[".X.X", ".XX."]);
    }

    #[test]
    fn column_ranges() {
        let columns = |bounds: usize, rows: &[i32]| {
            AuxData::new().column_ranges([1, 1, rows.len() / bounds, bounds], rows.to_vec())
        };
        check("column_ranges", &columns(1, &[1, 3, 0]), 3, &["..X", "X.X", "X.X"]);
        check("column_ranges", &columns(2, &[1, 2, 0, 0, 0, 3]), 3, &["..X", "X.X", "..X"]);
        let rows = ["X.X", "..X", ".X."];
        check("column_ranges(bidirectional)", &columns(2, &[3, 1, 2, 0, 3, 2]), 3, &rows);
        let rows = ["X.", "X.", ".X", "X."];
        check("column_ranges", &columns(4, &[3, 4, 0, 2, 2, 3, 0, 0]), 2, &rows);
    }

    #[test]
    fn blocks_that_queries_list() {
        let data = AuxData::new().block_indices([1, 1, 3, 2], [0, -1, -1, -1, 2, 0]);
        let rows = ["..XXX", "..XXX", "XXXXX", "XXXXX", "..XX."];
        check("block_sparse(2)", &data, 5, &rows);
        check(
            "causal & block_sparse(2)",
            &data,
            6,
            &["..XXXX", "..XXXX", "XXXXXX", "XXXXXX", "..XX.."],
        );
        let shape = Shape::new(1, 4, 1, 8).seq_len_kv(2).num_kv_heads(2);
        let data = AuxData::new().block_indices([1, 2, 1, 1], [0, 1]);
        let mask = Mask::block_sparse(1);
        let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
        let first: Vec<bool> = (0..4).map(|h| evaluator.keep(0, h, 0, 0)).collect();
        assert_eq!(first, [true, true, false, false], "a list for each of k's heads");
        let beyond = AuxData::new().block_indices([1, 1, 1, 1], [2]);
        let error = Evaluator::new(&mask, &beyond, &shape).unwrap_err().to_string();
        assert_eq!(error, "block_indices[0]: expected -1 or a block below 2, found 2");
    }

    #[test]
    fn trees() {
        // Two prompt tokens, then a tree: 0 is the root, 1 and 2 its children, 3 the child of 1.
        let data = AuxData::new().tree_parents([-1, 0, 0, 1]);
        check("tree", &data, 6, &["...XXX", "....XX", "...X.X", "....X."]);
    }

    #[test]
    fn heads_of_their_own_mask() {
        let shape = Shape::new(1, 4, 2, 8);
        let none = AuxData::new();
        let mask: Mask = "per_head(causal, all)".parse().unwrap();
        let evaluator = Evaluator::new(&mask, &none, &shape).unwrap();
        let future: Vec<bool> = (0..4).map(|h| evaluator.keep(0, h, 0, 1)).collect();
        assert_eq!(future, [false, false, true, true]);
        let three = "per_head(all, all, all)".parse().unwrap();
        assert!(Evaluator::new(&three, &none, &shape).is_err());
    }

    #[test]
    fn dense_and_operators() {
        let data = AuxData::new().dense([1, 1, 2, 3], [true, false, true, false, false, true]);
        check("dense", &data, 3, &[".X.", "XX."]);
        check("!dense", &data, 3, &["X.X", "..X"]);
        check("dense | causal(upper_left)", &data, 3, &[".X.", "..."]);
        let row = AuxData::new().dense([1, 1, 1, 3], [true, false, true]);
        check("dense", &row, 3, &[".X.", ".X."]);
    }

    #[test]
    fn heads_and_sequences_have_their_own() {
        let shape = Shape::new(2, 2, 1, 8).seq_len_kv(1);
        let data = AuxData::new().dense([2, 2, 1, 1], [true, false, false, true]);
        let evaluator = Evaluator::new(&Mask::Dense, &data, &shape).unwrap();
        let kept: Vec<bool> =
            [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(b, h)| evaluator.keep(b, h, 0, 0)).into();
        assert_eq!(kept, [true, false, false, true]);
    }
}
