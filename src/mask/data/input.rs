//! What masks and score modifiers can read, by name, with the sizes that each has and its length on the device.

use std::fmt;

use crate::error::Result;
use crate::sequences::{KeySequences, QuerySequences, Sequences};
use crate::shape::{Shape, Strides, elements};

/// The name of a tensor that a mask reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MaskInput {
    /// `key_lengths`, i32 `[batch]`: how many keys of each sequence are real.
    KeyLengths,
    /// `key_padding`, `[batch, seq_len_kv]`: not zero where the key is kept.
    KeyPadding,
    /// `token_ids`, i32 `[batch, seq_len_kv]`.
    TokenIds,
    /// `pad_id`, i32 `[1]`: the token id that stands for padding.
    PadId,
    /// `prefix_lengths`, i32 `[batch]`.
    PrefixLengths,
    /// `document_ids_q`, i32 `[batch, seq_len_q]`.
    DocumentIdsQ,
    /// `document_ids_kv`, i32 `[batch, seq_len_kv]`.
    DocumentIdsKv,
    /// `block_ids_q`, i32 `[batch, seq_len_q]`; negative in no block.
    BlockIdsQ,
    /// `block_ids_kv`, i32 `[batch, seq_len_kv]`; negative in no block.
    BlockIdsKv,
    /// `bucket_ids`, i32 `[batch, num_heads|1, rounds, seq_len_kv]`.
    BucketIds,
    /// `column_ranges`, i32 `[batch, num_heads|1, seq_len_kv, 1, 2 or 4]`: rows.
    ColumnRanges,
    /// `tree_parents`, i32 `[batch, seq_len_q]`: an earlier query's index, or −1 for a root.
    TreeParents,
    /// `bias`, f32 `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`, added to the scores: see [`crate::Score`].
    Bias,
    /// `alibi_slopes`, f32 `[num_heads]`: see [`crate::Score`].
    AlibiSlopes,
    /// `sinks`, f32 `[num_heads]`: see [`crate::Score`].
    Sinks,
    /// `dense`, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`: one bit per cell, set where it is kept.
    Dense,
    /// `q_starts`, i32 `[batch + 1]`: where each of the packed sequences starts, and where the last one ends
    /// (FlashAttention's `cu_seqlens_q`): see [`crate::Sequences`].
    QStarts,
    /// `kv_starts`, i32 `[batch + 1]`, likewise (`cu_seqlens_k`).
    KvStarts,
    /// `q_lengths`, i32 `[batch]`: how many queries each of the left-padded sequences has.
    QLengths,
    /// `kv_lengths`, i32 `[batch]`: how many keys of each sequence are in the cache, padding included; in a ring, how
    /// many have ever been.
    KvLengths,
    /// `kv_first`, i32 `[batch]`: how much padding stands before the keys of each sequence in the cache.
    KvFirst,
    /// `block_tables`, i32 `[batch, blocks_per_sequence]`: where the blocks of each sequence lie in the pool. Entries
    /// behind a sequence's end aren't read.
    BlockTables,
}

impl MaskInput {
    /// Every input.
    pub const ALL: [Self; 22] = [
        Self::KeyLengths,
        Self::KeyPadding,
        Self::TokenIds,
        Self::PadId,
        Self::PrefixLengths,
        Self::DocumentIdsQ,
        Self::DocumentIdsKv,
        Self::BlockIdsQ,
        Self::BlockIdsKv,
        Self::BucketIds,
        Self::ColumnRanges,
        Self::TreeParents,
        Self::Bias,
        Self::AlibiSlopes,
        Self::Sinks,
        Self::Dense,
        Self::QStarts,
        Self::KvStarts,
        Self::QLengths,
        Self::KvLengths,
        Self::KvFirst,
        Self::BlockTables,
    ];

    /// The name in files, messages and the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyLengths => "key_lengths",
            Self::KeyPadding => "key_padding",
            Self::TokenIds => "token_ids",
            Self::PadId => "pad_id",
            Self::PrefixLengths => "prefix_lengths",
            Self::DocumentIdsQ => "document_ids_q",
            Self::DocumentIdsKv => "document_ids_kv",
            Self::BlockIdsQ => "block_ids_q",
            Self::BlockIdsKv => "block_ids_kv",
            Self::BucketIds => "bucket_ids",
            Self::ColumnRanges => "column_ranges",
            Self::TreeParents => "tree_parents",
            Self::Bias => "bias",
            Self::AlibiSlopes => "alibi_slopes",
            Self::Sinks => "sinks",
            Self::Dense => "dense",
            Self::QStarts => "q_starts",
            Self::KvStarts => "kv_starts",
            Self::QLengths => "q_lengths",
            Self::KvLengths => "kv_lengths",
            Self::KvFirst => "kv_first",
            Self::BlockTables => "block_tables",
        }
    }

    /// What sequences of different lengths need.
    pub(crate) fn of_sequences(sequences: &Sequences) -> impl Iterator<Item = Self> {
        let q: &[Self] = match sequences.q {
            QuerySequences::Uniform => &[],
            QuerySequences::Packed { .. } => &[Self::QStarts],
            QuerySequences::LeftPadded => &[Self::QLengths],
        };
        let kv: &[Self] = match sequences.kv {
            KeySequences::Uniform => &[],
            KeySequences::Packed { .. } => &[Self::KvStarts],
            KeySequences::Cached { left_padded: false } | KeySequences::Ring => &[Self::KvLengths],
            KeySequences::Cached { left_padded: true } => &[Self::KvLengths, Self::KvFirst],
            KeySequences::Paged { .. } => &[Self::KvLengths, Self::BlockTables],
        };
        q.iter().chain(kv).copied()
    }

    /// How many 32-bit words the input has on the device: one per element, for `dense` one per 32 keys of a row.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] where the number doesn't fit `usize`.
    pub fn words(self, shape: &Shape, data: &DataShape) -> Result<usize> {
        match self {
            Self::Dense => data.dense.words(shape),
            _ => elements(self.name(), &self.dims(shape, data)),
        }
    }

    /// The sizes of an input that has one word per element.
    pub(super) fn dims(self, shape: &Shape, data: &DataShape) -> Vec<usize> {
        let Shape { batch, seq_len_q, seq_len_kv, .. } = *shape;
        match self {
            Self::KeyLengths
            | Self::PrefixLengths
            | Self::QLengths
            | Self::KvLengths
            | Self::KvFirst => vec![batch],
            Self::QStarts | Self::KvStarts => vec![batch.saturating_add(1)],
            Self::BlockTables => match shape.sequences.kv {
                KeySequences::Paged { blocks_per_sequence, .. } => vec![batch, blocks_per_sequence],
                _ => vec![batch, 0],
            },
            Self::KeyPadding | Self::TokenIds | Self::DocumentIdsKv | Self::BlockIdsKv => {
                vec![batch, seq_len_kv]
            }
            Self::PadId => vec![1],
            Self::DocumentIdsQ | Self::BlockIdsQ | Self::TreeParents => vec![batch, seq_len_q],
            Self::BucketIds => {
                vec![batch, data.buckets.heads(shape), data.buckets.elements, seq_len_kv]
            }
            Self::ColumnRanges => {
                vec![batch, data.columns.heads(shape), seq_len_kv, data.columns.elements]
            }
            Self::AlibiSlopes | Self::Sinks => vec![shape.num_heads],
            Self::Bias => {
                let [batch, heads, rows] = data.bias.dims(shape);
                vec![batch, heads, rows, seq_len_kv]
            }
            Self::Dense => vec![batch, shape.num_heads, seq_len_q, seq_len_kv],
        }
    }
}

impl fmt::Display for MaskInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sizes of mask data that the problem's shape leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DataShape {
    /// How `dense` broadcasts.
    pub dense: DenseShape,
    /// How `bias` broadcasts.
    pub bias: DenseShape,
    /// `bucket_ids`: its elements per position are the rounds of hashing.
    pub buckets: PerHeadShape,
    /// `column_ranges`: its elements per column are the bounds, 1, 2 or 4.
    pub columns: PerHeadShape,
}

/// A stride: of a tensor whose size overflows, which is refused where its elements are counted.
const fn times(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}

/// The sizes of an input that heads may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PerHeadShape {
    /// The same for every query head.
    pub broadcast_heads: bool,
    /// Elements per position.
    pub elements: usize,
}

impl Default for PerHeadShape {
    fn default() -> Self {
        Self { broadcast_heads: false, elements: 1 }
    }
}

impl PerHeadShape {
    const fn heads(self, shape: &Shape) -> usize {
        if self.broadcast_heads { 1 } else { shape.num_heads }
    }

    /// Distances in words between sequences and heads; 0 where broadcast.
    pub(crate) fn strides(self, shape: &Shape) -> [usize; 2] {
        let head = times(shape.seq_len_kv, self.elements);
        [times(self.heads(shape), head), if self.broadcast_heads { 0 } else { head }]
    }
}

/// Along which dimensions a dense mask is the same: `true` means one copy serves all.
///
/// On the device its words are u32 `[batch|1, num_heads|1, seq_len_q|1, ceil(seq_len_kv / 32)]`; bit `kv_idx % 32`
/// (from the least significant) of word `kv_idx / 32` is set where the key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DenseShape {
    /// The same for every sequence.
    pub broadcast_batch: bool,
    /// The same for every query head.
    pub broadcast_heads: bool,
    /// The same for every query.
    pub broadcast_q: bool,
}

impl DenseShape {
    /// `[batch, heads, rows]` as stored.
    pub(crate) const fn dims(self, shape: &Shape) -> [usize; 3] {
        [
            if self.broadcast_batch { 1 } else { shape.batch },
            if self.broadcast_heads { 1 } else { shape.num_heads },
            if self.broadcast_q { 1 } else { shape.seq_len_q },
        ]
    }

    /// Distances in elements of a tensor of full rows, 0 where broadcast.
    pub(crate) fn element_strides(self, shape: &Shape) -> Strides {
        let [_, heads, rows] = self.dims(shape);
        let unless = |broadcast: bool, stride: usize| if broadcast { 0 } else { stride };
        Strides {
            batch: unless(self.broadcast_batch, times(times(heads, rows), shape.seq_len_kv)),
            head: unless(self.broadcast_heads, times(rows, shape.seq_len_kv)),
            seq: unless(self.broadcast_q, shape.seq_len_kv),
            dim: 1,
        }
    }

    fn words(self, shape: &Shape) -> Result<usize> {
        let [batch, heads, rows] = self.dims(shape);
        elements("dense", &[batch, heads, rows, shape.seq_len_kv.div_ceil(32)])
    }

    /// Distances in words between sequences, heads and rows; 0 where broadcast.
    pub(crate) fn strides(self, shape: &Shape) -> [usize; 3] {
        let [_, heads, rows] = self.dims(shape);
        let row = shape.seq_len_kv.div_ceil(32);
        let unless = |broadcast: bool, stride: usize| if broadcast { 0 } else { stride };
        [
            unless(self.broadcast_batch, times(times(heads, rows), row)),
            unless(self.broadcast_heads, times(rows, row)),
            unless(self.broadcast_q, row),
        ]
    }
}
