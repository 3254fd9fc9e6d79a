//! What masks read at run time, found by name, and how it lies in the device's mask buffer.

use std::collections::BTreeMap;
use std::fmt;

use crate::custom::CustomBuffer;
use crate::error::{Error, Result};
use crate::sequences::{KeySequences, QuerySequences, Sequences};
use crate::shape::{MAX_SEQ_LEN, Shape, Strides, elements};

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
    /// [`Error::Operand`] where the number doesn't fit `usize`.
    pub fn words(self, shape: &Shape, data: &DataShape) -> Result<usize> {
        match self {
            Self::Dense => data.dense.words(shape),
            _ => elements(self.name(), &self.dims(shape, data)),
        }
    }

    /// The sizes of an input that has one word per element.
    fn dims(self, shape: &Shape, data: &DataShape) -> Vec<usize> {
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

    /// Whether what `inputs` need is there and fits `shape`.
    pub(crate) fn check(&self, inputs: &[MaskInput], shape: &Shape) -> Result<()> {
        for &input in inputs {
            if input == MaskInput::Dense {
                self.check_dense(shape)?;
                continue;
            }
            let Some(words) = self.words.get(&input) else {
                return Err(missing(input));
            };
            let expected = input.words(shape, &self.shape())?;
            if words.len() != expected {
                return Err(Error::operand(
                    input.name(),
                    format!("{expected} elements ({:?})", input.dims(shape, &self.shape())),
                    format!("{} elements", words.len()),
                ));
            }
            match input {
                MaskInput::KeyLengths | MaskInput::PrefixLengths => {
                    check_lengths(input, words, "seq_len_kv", shape.seq_len_kv)?;
                }
                MaskInput::QLengths => check_lengths(input, words, "seq_len_q", shape.seq_len_q)?,
                MaskInput::KvLengths => match shape.sequences.kv {
                    KeySequences::Ring => check_lengths(input, words, "2^29", MAX_SEQ_LEN)?,
                    _ => check_lengths(input, words, "seq_len_kv", shape.seq_len_kv)?,
                },
                MaskInput::QStarts => {
                    check_starts(input, words, shape.q_rows()[1], "seq_len_q", shape.seq_len_q)?;
                }
                MaskInput::KvStarts => {
                    check_starts(input, words, shape.kv_rows()[1], "seq_len_kv", shape.seq_len_kv)?;
                }
                MaskInput::KvFirst => self.check_first(words)?,
                MaskInput::BlockTables => self.check_tables(words, shape)?,
                MaskInput::ColumnRanges => check_columns(words, self.columns.elements, shape)?,
                MaskInput::TreeParents => check_parents(words, shape)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Padding isn't longer than what is in the cache; the lengths have been checked.
    fn check_first(&self, words: &[u32]) -> Result<()> {
        for (b, &word) in words.iter().enumerate() {
            let length = self.int(MaskInput::KvLengths, b);
            if !(0..=length).contains(&word.cast_signed()) {
                return Err(Error::operand(
                    format!("kv_first[{b}]"),
                    format!("0 to kv_lengths[{b}] = {length}"),
                    word.cast_signed(),
                ));
            }
        }
        Ok(())
    }

    /// Every entry that is used lies in the pool; the lengths have been checked.
    fn check_tables(&self, words: &[u32], shape: &Shape) -> Result<()> {
        let KeySequences::Paged { block_size, blocks, blocks_per_sequence } = shape.sequences.kv
        else {
            return Ok(());
        };
        for b in 0..shape.batch {
            let used = (self.int(MaskInput::KvLengths, b) as usize).div_ceil(block_size);
            let row = &words[b * blocks_per_sequence..][..used];
            if let Some(at) = row.iter().position(|&entry| entry as usize >= blocks) {
                return Err(Error::operand(
                    format!("block_tables[{b}, {at}]"),
                    format!("0 to blocks - 1 = {}", blocks - 1),
                    row[at].cast_signed(),
                ));
            }
        }
        Ok(())
    }

    fn check_dense(&self, shape: &Shape) -> Result<()> {
        let Some(dense) = &self.dense else {
            return Err(missing(MaskInput::Dense));
        };
        let full = [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv];
        let broadcasts = (dense.dims.iter().zip(full)).all(|(&dim, full)| dim == full || dim == 1);
        if !broadcasts {
            return Err(Error::operand(
                "dense",
                format!("sizes that broadcast to {full:?}"),
                format!("{:?}", dense.dims),
            ));
        }
        let expected = elements("dense", &dense.dims)?;
        if dense.keep.len() != expected {
            return Err(Error::operand(
                "dense",
                format!("{expected} elements ({:?})", dense.dims),
                format!("{} elements", dense.keep.len()),
            ));
        }
        Ok(())
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

fn missing(input: MaskInput) -> Error {
    Error::operand(input.name(), "data, for the mask names it", "none")
}

fn check_lengths(input: MaskInput, words: &[u32], limit: &str, most: usize) -> Result<()> {
    for (b, &word) in words.iter().enumerate() {
        let length = word.cast_signed();
        if usize::try_from(length).is_ok_and(|length| length <= most) {
            continue;
        }
        return Err(Error::operand(
            format!("{input}[{b}]"),
            format!("0 to {limit} = {most}"),
            length,
        ));
    }
    Ok(())
}

/// Cumulative lengths start at 0, never fall, end at `total`, and no sequence is longer than `most`.
fn check_starts(
    input: MaskInput,
    words: &[u32],
    total: usize,
    limit: &str,
    most: usize,
) -> Result<()> {
    let wrong = |at: usize, expected: String| {
        Error::operand(format!("{input}[{at}]"), expected, words[at].cast_signed())
    };
    if words[0] != 0 {
        return Err(wrong(0, "0".to_owned()));
    }
    for (b, pair) in words.windows(2).enumerate() {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        if end < start || end - start > most || pair[1].cast_signed() < 0 {
            let expected = format!("{start} to {start} + {limit} = {}", start + most);
            return Err(wrong(b + 1, expected));
        }
    }
    let last = words.len() - 1;
    if words[last] as usize != total {
        return Err(wrong(last, format!("the number of packed rows, {total}")));
    }
    Ok(())
}

/// Bounds are rows; where a column has starts and ends, none starts after its end.
fn check_columns(words: &[u32], bounds: usize, shape: &Shape) -> Result<()> {
    if ![1, 2, 4].contains(&bounds) {
        return Err(Error::operand("column_ranges", "1, 2 or 4 bounds per column", bounds));
    }
    for (at, &word) in words.iter().enumerate() {
        let row = word.cast_signed();
        if !usize::try_from(row).is_ok_and(|row| row <= shape.seq_len_q) {
            return Err(Error::operand(
                format!("column_ranges[{at}]"),
                format!("0 to seq_len_q = {}", shape.seq_len_q),
                row,
            ));
        }
    }
    if bounds == 4 {
        check_order(words)?;
    }
    Ok(())
}

/// Whether each pair of bounds is a start and an end.
pub(crate) fn check_order(words: &[u32]) -> Result<()> {
    for (at, pair) in words.chunks_exact(2).enumerate() {
        let (start, end) = (pair[0].cast_signed(), pair[1].cast_signed());
        if start > end {
            return Err(Error::operand(
                format!("column_ranges[{}]", at * 2),
                "a start that isn't after its end",
                format!("{start}..{end}"),
            ));
        }
    }
    Ok(())
}

/// Parents come before their children, so no walk towards a root is without end.
fn check_parents(words: &[u32], shape: &Shape) -> Result<()> {
    for (at, &word) in words.iter().enumerate() {
        let (own, parent) = (at % shape.seq_len_q, word.cast_signed());
        if parent < -1 || usize::try_from(parent).is_ok_and(|parent| parent >= own) {
            return Err(Error::operand(
                format!("tree_parents[{at}]"),
                format!("-1 or a query before its own, {own}: else the tree has a cycle"),
                parent,
            ));
        }
    }
    Ok(())
}
