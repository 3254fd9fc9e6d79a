//! What masks read at run time, found by name, and how it lies in the device's mask buffer.

mod check;
mod input;

use std::collections::BTreeMap;

pub use input::{DataShape, DenseShape, MaskInput, PerHeadShape};

use crate::custom::CustomBuffer;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// What masks read, on the CPU, by name.
///
/// ```
/// use wgpu_attention::MaskData;
/// let data = MaskData::new()
///     .key_lengths([6, 3])
///     .token_ids([5, 9, 9, 4, 5, 8, 3, 7, 2, 0, 0, 0], 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MaskData {
    words: BTreeMap<MaskInput, Vec<u32>>,
    custom: BTreeMap<String, Vec<u32>>,
    dense: Option<DenseTensor>,
    bias: DenseShape,
    buckets: PerHeadShape,
    columns: PerHeadShape,
}

/// A dense mask as given: sizes and a flag per cell.
#[derive(Debug, Clone, PartialEq)]
struct DenseTensor {
    dims: [usize; 4],
    keep: Vec<bool>,
}

impl MaskData {
    /// No data.
    pub const fn new() -> Self {
        Self {
            words: BTreeMap::new(),
            custom: BTreeMap::new(),
            dense: None,
            bias: DenseShape { broadcast_batch: false, broadcast_heads: false, broadcast_q: false },
            buckets: PerHeadShape { broadcast_heads: false, elements: 1 },
            columns: PerHeadShape { broadcast_heads: false, elements: 1 },
        }
    }

    /// `key_lengths`, `[batch]`, each from 0 to `seq_len_kv`.
    #[must_use]
    pub fn key_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::KeyLengths, lengths)
    }

    /// `key_padding`, `[batch, seq_len_kv]`, true where the key is kept.
    #[must_use]
    pub fn key_padding(self, keep: impl IntoIterator<Item = bool>) -> Self {
        self.ints(MaskInput::KeyPadding, keep.into_iter().map(i32::from))
    }

    /// `token_ids`, `[batch, seq_len_kv]`, and the id that stands for padding.
    #[must_use]
    pub fn token_ids(self, ids: impl IntoIterator<Item = i32>, pad_id: i32) -> Self {
        self.ints(MaskInput::TokenIds, ids).ints(MaskInput::PadId, [pad_id])
    }

    /// `prefix_lengths`, `[batch]`, each from 0 to `seq_len_kv`.
    #[must_use]
    pub fn prefix_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::PrefixLengths, lengths)
    }

    /// `document_ids`, `[batch, seq_len]`, of queries and keys alike.
    #[must_use]
    pub fn document_ids(self, ids: impl IntoIterator<Item = i32>) -> Self {
        let ids: Vec<i32> = ids.into_iter().collect();
        self.ints(MaskInput::DocumentIdsQ, ids.iter().copied()).ints(MaskInput::DocumentIdsKv, ids)
    }

    /// `document_ids_q`, `[batch, seq_len_q]`, and `document_ids_kv`, `[batch, seq_len_kv]`.
    #[must_use]
    pub fn document_ids_q_kv(
        self,
        q: impl IntoIterator<Item = i32>,
        kv: impl IntoIterator<Item = i32>,
    ) -> Self {
        self.ints(MaskInput::DocumentIdsQ, q).ints(MaskInput::DocumentIdsKv, kv)
    }

    /// `block_ids`, `[batch, seq_len]`, of queries and keys alike; negative in no block.
    #[must_use]
    pub fn block_ids(self, ids: impl IntoIterator<Item = i32>) -> Self {
        let ids: Vec<i32> = ids.into_iter().collect();
        self.ints(MaskInput::BlockIdsQ, ids.iter().copied()).ints(MaskInput::BlockIdsKv, ids)
    }

    /// `block_ids_q`, `[batch, seq_len_q]`, and `block_ids_kv`, `[batch, seq_len_kv]`.
    #[must_use]
    pub fn block_ids_q_kv(
        self,
        q: impl IntoIterator<Item = i32>,
        kv: impl IntoIterator<Item = i32>,
    ) -> Self {
        self.ints(MaskInput::BlockIdsQ, q).ints(MaskInput::BlockIdsKv, kv)
    }

    /// `bucket_ids`, of sizes `[batch, num_heads|1, rounds, seq_len_kv]`.
    #[must_use]
    pub fn bucket_ids(mut self, dims: [usize; 4], ids: impl IntoIterator<Item = i32>) -> Self {
        self.buckets = PerHeadShape { broadcast_heads: dims[1] == 1, elements: dims[2] };
        self.ints(MaskInput::BucketIds, ids)
    }

    /// `column_ranges`, of sizes `[batch, num_heads|1, seq_len_kv, 1, 2 or 4]`: rows from 0 to `seq_len_q`.
    #[must_use]
    pub fn column_ranges(mut self, dims: [usize; 4], rows: impl IntoIterator<Item = i32>) -> Self {
        self.columns = PerHeadShape { broadcast_heads: dims[1] == 1, elements: dims[3] };
        self.ints(MaskInput::ColumnRanges, rows)
    }

    /// `tree_parents`, `[batch, seq_len_q]`: an earlier query's index, or −1 for a root.
    #[must_use]
    pub fn tree_parents(self, parents: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::TreeParents, parents)
    }

    /// `bias`, of sizes `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`, added to the scores.
    #[must_use]
    pub fn bias(mut self, dims: [usize; 4], values: impl IntoIterator<Item = f32>) -> Self {
        self.bias = DenseShape {
            broadcast_batch: dims[0] == 1,
            broadcast_heads: dims[1] == 1,
            broadcast_q: dims[2] == 1,
        };
        self.floats(MaskInput::Bias, values)
    }

    /// `alibi_slopes`, `[num_heads]`.
    #[must_use]
    pub fn alibi_slopes(self, slopes: impl IntoIterator<Item = f32>) -> Self {
        self.floats(MaskInput::AlibiSlopes, slopes)
    }

    /// `sinks`, `[num_heads]`.
    #[must_use]
    pub fn sinks(self, logits: impl IntoIterator<Item = f32>) -> Self {
        self.floats(MaskInput::Sinks, logits)
    }

    /// `q_starts`, `[batch + 1]`: 0, and where each of the packed sequences ends (`cu_seqlens_q`).
    #[must_use]
    pub fn q_starts(self, starts: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::QStarts, starts)
    }

    /// `kv_starts`, `[batch + 1]`: 0, and where each of the packed sequences ends (`cu_seqlens_k`).
    #[must_use]
    pub fn kv_starts(self, starts: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::KvStarts, starts)
    }

    /// `q_lengths`, `[batch]`, each from 0 to `seq_len_q`.
    #[must_use]
    pub fn q_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::QLengths, lengths)
    }

    /// `kv_lengths`, `[batch]`, each from 0 to `seq_len_kv`, of a ring from 0 on.
    #[must_use]
    pub fn kv_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::KvLengths, lengths)
    }

    /// `kv_first`, `[batch]`, each from 0 to `kv_lengths[b]`.
    #[must_use]
    pub fn kv_first(self, first: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::KvFirst, first)
    }

    /// `block_tables`, `[batch, blocks_per_sequence]`, each entry that is used from 0 to `blocks − 1`.
    #[must_use]
    pub fn block_tables(self, tables: impl IntoIterator<Item = i32>) -> Self {
        self.ints(MaskInput::BlockTables, tables)
    }

    /// `dense`, of sizes `dims` that broadcast to `[batch, num_heads, seq_len_q, seq_len_kv]`, true where the key is kept.
    #[must_use]
    pub fn dense(mut self, dims: [usize; 4], keep: impl IntoIterator<Item = bool>) -> Self {
        self.dense = Some(DenseTensor { dims, keep: keep.into_iter().collect() });
        self
    }

    /// A custom function's buffer of f32.
    #[must_use]
    pub fn custom_f32(self, name: &str, values: impl IntoIterator<Item = f32>) -> Self {
        self.custom_u32(name, values.into_iter().map(f32::to_bits))
    }

    /// A custom function's buffer of i32.
    #[must_use]
    pub fn custom_i32(self, name: &str, values: impl IntoIterator<Item = i32>) -> Self {
        self.custom_u32(name, values.into_iter().map(i32::cast_unsigned))
    }

    /// A custom function's buffer of u32.
    #[must_use]
    pub fn custom_u32(mut self, name: &str, values: impl IntoIterator<Item = u32>) -> Self {
        self.custom.insert(name.to_owned(), values.into_iter().collect());
        self
    }

    /// The words of a custom function's buffer.
    pub(crate) fn custom_words(&self, buffer: &CustomBuffer) -> Result<&[u32]> {
        let name = || format!("wgsl buffer `{}`", buffer.name);
        match self.custom.get(&*buffer.name) {
            None => Err(Error::operand(name(), "data, for the function names it", "none")),
            Some(words) if words.len() == buffer.len => Ok(words),
            Some(words) => Err(Error::operand(
                name(),
                format!("{} elements", buffer.len),
                format!("{} elements", words.len()),
            )),
        }
    }

    fn ints(mut self, input: MaskInput, values: impl IntoIterator<Item = i32>) -> Self {
        let words = values.into_iter().map(i32::cast_unsigned).collect();
        self.words.insert(input, words);
        self
    }

    fn floats(mut self, input: MaskInput, values: impl IntoIterator<Item = f32>) -> Self {
        self.words.insert(input, values.into_iter().map(f32::to_bits).collect());
        self
    }

    /// The sizes that the problem's shape leaves open, for [`crate::Problem::data_shape`].
    pub fn shape(&self) -> DataShape {
        let dense = self.dense.as_ref().map_or_else(DenseShape::default, |dense| DenseShape {
            broadcast_batch: dense.dims[0] == 1,
            broadcast_heads: dense.dims[1] == 1,
            broadcast_q: dense.dims[2] == 1,
        });
        DataShape { dense, bias: self.bias, buckets: self.buckets, columns: self.columns }
    }

    /// A bucket of a checked input: of head `h`, in a round, at a position.
    pub(crate) fn bucket(&self, shape: &Shape, b: usize, h: usize, round: usize, at: usize) -> i32 {
        let [batch, head] = self.buckets.strides(shape);
        self.int(MaskInput::BucketIds, b * batch + h * head + round * shape.seq_len_kv + at)
    }

    /// How many rounds of hashing a checked input has.
    pub(crate) const fn bucket_rounds(&self) -> usize {
        self.buckets.elements
    }

    /// The bounds of a key's column in a checked input.
    pub(crate) fn column(&self, shape: &Shape, b: usize, h: usize, kv_idx: usize) -> Vec<i64> {
        let [batch, head] = self.columns.strides(shape);
        let bounds = self.columns.elements;
        let first = b * batch + h * head + kv_idx * bounds;
        (first..first + bounds).map(|at| self.int(MaskInput::ColumnRanges, at).into()).collect()
    }

    /// An element of a checked input.
    pub(crate) fn int(&self, input: MaskInput, index: usize) -> i32 {
        self.words[&input][index].cast_signed()
    }

    /// A cell of a checked bias.
    pub(crate) fn bias_at(&self, shape: &Shape, [b, h, q_idx, kv_idx]: [usize; 4]) -> f32 {
        let strides = self.bias.element_strides(shape);
        let at = b * strides.batch + h * strides.head + q_idx * strides.seq + kv_idx;
        f32::from_bits(self.words[&MaskInput::Bias][at])
    }

    /// An element of `alibi_slopes` or `sinks`, checked.
    pub(crate) fn of_head(&self, input: MaskInput, h: usize) -> f32 {
        f32::from_bits(self.words[&input][h])
    }

    /// A cell of a checked dense mask.
    pub(crate) fn dense_cell(&self, cell: [usize; 4]) -> bool {
        self.dense.as_ref().is_some_and(|dense| {
            let index = (dense.dims.iter().zip(cell))
                .fold(0, |index, (&dim, at)| index * dim + if dim == 1 { 0 } else { at });
            dense.keep[index]
        })
    }

    /// A checked input in the device's format; see [`MaskInput::words`].
    pub(crate) fn device_words(&self, input: MaskInput, shape: &Shape) -> Vec<u32> {
        if input != MaskInput::Dense {
            return self.words.get(&input).cloned().unwrap_or_default();
        }
        let [batch, heads, rows] = self.shape().dense.dims(shape);
        let mut words = Vec::new();
        for b in 0..batch {
            for h in 0..heads {
                for row in 0..rows {
                    let bit = |kv_idx: usize| {
                        u32::from(kv_idx < shape.seq_len_kv && self.dense_cell([b, h, row, kv_idx]))
                    };
                    words.extend(
                        (0..shape.seq_len_kv.div_ceil(32)).map(|word| {
                            (0..32).fold(0, |bits, at| bits | bit(word * 32 + at) << at)
                        }),
                    );
                }
            }
        }
        words
    }
}
