//! What masks read at run time, found by name, and how it lies in the device's mask buffer.

use std::fmt;

use crate::error::{Error, Result};
use crate::shape::{Shape, elements};

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
    /// `dense`, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`: one bit per cell, set where it is kept.
    Dense,
}

impl MaskInput {
    /// Every input.
    pub const ALL: [Self; 8] = [
        Self::KeyLengths,
        Self::KeyPadding,
        Self::TokenIds,
        Self::PadId,
        Self::PrefixLengths,
        Self::DocumentIdsQ,
        Self::DocumentIdsKv,
        Self::Dense,
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
            Self::Dense => "dense",
        }
    }

    /// How many 32-bit words the input has on the device: one per element, for `dense` one per 32 keys of a row.
    ///
    /// # Errors
    /// [`Error::Operand`] where the number doesn't fit `usize`.
    pub fn words(self, shape: &Shape, dense: DenseShape) -> Result<usize> {
        let dims: &[usize] = match self {
            Self::KeyLengths | Self::PrefixLengths => &[shape.batch],
            Self::KeyPadding | Self::TokenIds | Self::DocumentIdsKv => {
                &[shape.batch, shape.seq_len_kv]
            }
            Self::PadId => &[1],
            Self::DocumentIdsQ => &[shape.batch, shape.seq_len_q],
            Self::Dense => return dense.words(shape),
        };
        elements(self.name(), dims)
    }
}

impl fmt::Display for MaskInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
            unless(self.broadcast_batch, heads * rows * row),
            unless(self.broadcast_heads, rows * row),
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
    words: std::collections::BTreeMap<MaskInput, Vec<u32>>,
    dense: Option<DenseTensor>,
}

/// A dense mask as given: sizes and a flag per cell.
#[derive(Debug, Clone, PartialEq)]
struct DenseTensor {
    dims: [usize; 4],
    keep: Vec<bool>,
}

impl MaskData {
    /// No data.
    pub fn new() -> Self {
        Self::default()
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

    /// `dense`, of sizes `dims` that broadcast to `[batch, num_heads, seq_len_q, seq_len_kv]`, true where the key is kept.
    #[must_use]
    pub fn dense(mut self, dims: [usize; 4], keep: impl IntoIterator<Item = bool>) -> Self {
        self.dense = Some(DenseTensor { dims, keep: keep.into_iter().collect() });
        self
    }

    fn ints(mut self, input: MaskInput, values: impl IntoIterator<Item = i32>) -> Self {
        let words = values.into_iter().map(i32::cast_unsigned).collect();
        self.words.insert(input, words);
        self
    }

    /// How the dense mask broadcasts, for [`crate::Problem::dense_shape`].
    pub fn dense_shape(&self) -> DenseShape {
        self.dense.as_ref().map_or_else(DenseShape::default, |dense| DenseShape {
            broadcast_batch: dense.dims[0] == 1,
            broadcast_heads: dense.dims[1] == 1,
            broadcast_q: dense.dims[2] == 1,
        })
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
            let expected = input.words(shape, DenseShape::default())?;
            if words.len() != expected {
                return Err(Error::operand(
                    input.name(),
                    format!("{expected} elements ({})", dims_of(input, shape)),
                    format!("{} elements", words.len()),
                ));
            }
            if matches!(input, MaskInput::KeyLengths | MaskInput::PrefixLengths) {
                check_lengths(input, words, shape)?;
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

    /// An element of a checked input.
    pub(crate) fn int(&self, input: MaskInput, index: usize) -> i32 {
        self.words[&input][index].cast_signed()
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
        let [batch, heads, rows] = self.dense_shape().dims(shape);
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

fn dims_of(input: MaskInput, shape: &Shape) -> String {
    match input {
        MaskInput::KeyLengths | MaskInput::PrefixLengths => format!("[batch = {}]", shape.batch),
        MaskInput::DocumentIdsQ => {
            format!("[batch = {}, seq_len_q = {}]", shape.batch, shape.seq_len_q)
        }
        MaskInput::PadId => "[1]".to_owned(),
        _ => format!("[batch = {}, seq_len_kv = {}]", shape.batch, shape.seq_len_kv),
    }
}

fn check_lengths(input: MaskInput, words: &[u32], shape: &Shape) -> Result<()> {
    for (b, &word) in words.iter().enumerate() {
        let length = word.cast_signed();
        if usize::try_from(length).is_ok_and(|length| length <= shape.seq_len_kv) {
            continue;
        }
        return Err(Error::operand(
            format!("{input}[{b}]"),
            format!("0 to seq_len_kv = {}", shape.seq_len_kv),
            length,
        ));
    }
    Ok(())
}
