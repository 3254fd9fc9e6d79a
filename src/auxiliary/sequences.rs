//! The tensors of sequences of different lengths: where they start, how long they are, where their blocks lie.

use super::check::Values;
use super::data::AuxData;
use super::{AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::error::{Error, Result};
use crate::tensor::sequences::{KeySequences, QuerySequences};
use crate::tensor::shape::{MAX_SEQ_LEN, Shape};

#[expect(non_upper_case_globals, reason = "tensors are named as the masks that read them")]
impl AuxTensor {
    /// `q_starts`, i32 `[batch + 1]`: where each of the packed sequences starts, and where the last one ends
    /// (FlashAttention's `cu_seqlens_q`): see [`crate::tensor::Sequences`].
    pub const QStarts: Self = Self::named("q_starts");
    /// `kv_starts`, i32 `[batch + 1]`, likewise (`cu_seqlens_k`).
    pub const KvStarts: Self = Self::named("kv_starts");
    /// `q_lengths`, i32 `[batch]`: how many queries each of the left-padded sequences has.
    pub const QLengths: Self = Self::named("q_lengths");
    /// `kv_lengths`, i32 `[batch]`: how many keys of each sequence are in the cache, padding included; in a ring, how
    /// many have ever been.
    pub const KvLengths: Self = Self::named("kv_lengths");
    /// `kv_first`, i32 `[batch]`: how much padding stands before the keys of each sequence in the cache.
    pub const KvFirst: Self = Self::named("kv_first");
    /// `block_tables`, i32 `[batch, blocks_per_sequence]`: where the blocks of each sequence lie in the pool. Entries
    /// behind a sequence's end aren't read.
    pub const BlockTables: Self = Self::named("block_tables");
}

impl AuxData {
    /// `q_starts`, `[batch + 1]`: 0, and where each of the packed sequences ends (`cu_seqlens_q`).
    #[must_use]
    pub fn q_starts(self, starts: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::QStarts, starts)
    }

    /// `kv_starts`, `[batch + 1]`: 0, and where each of the packed sequences ends (`cu_seqlens_k`).
    #[must_use]
    pub fn kv_starts(self, starts: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::KvStarts, starts)
    }

    /// `q_lengths`, `[batch]`, each from 0 to `seq_len_q`.
    #[must_use]
    pub fn q_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::QLengths, lengths)
    }

    /// `kv_lengths`, `[batch]`, each from 0 to `seq_len_kv`, of a ring from 0 on.
    #[must_use]
    pub fn kv_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::KvLengths, lengths)
    }

    /// `kv_first`, `[batch]`, each from 0 to `kv_lengths[b]`.
    #[must_use]
    pub fn kv_first(self, first: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::KvFirst, first)
    }

    /// `block_tables`, `[batch, blocks_per_sequence]`, each entry that is used from 0 to `blocks − 1`.
    #[must_use]
    pub fn block_tables(self, tables: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::BlockTables, tables)
    }
}

/// What the sequences of a shape need: first the lengths, which the checks of the others go by.
pub(crate) fn tensors(shape: &Shape) -> Vec<AuxSpec> {
    let ints = |input, dim: AuxDim| AuxSpec::new(input, AuxElement::I32, [dim]);
    let per_sequence = |input| ints(input, AuxDim::batch(shape));
    let starts =
        |input| ints(input, AuxDim::new("batch + 1", "B + 1", [shape.batch.saturating_add(1)]));
    let mut tensors = Vec::new();
    match shape.sequences.q {
        QuerySequences::Uniform => {}
        QuerySequences::Packed { .. } => {
            tensors.push(starts(AuxTensor::QStarts).checked(|values| {
                check_starts(values, values.shape.q_rows()[1], "seq_len_q", values.shape.seq_len_q)
            }));
        }
        QuerySequences::LeftPadded => {
            tensors.push(
                per_sequence(AuxTensor::QLengths)
                    .checked(|values| values.lengths("seq_len_q", values.shape.seq_len_q)),
            );
        }
    }
    let kv_lengths = || {
        per_sequence(AuxTensor::KvLengths).checked(|values| match values.shape.sequences.kv {
            KeySequences::Ring => values.lengths("2^29", MAX_SEQ_LEN),
            _ => values.lengths("seq_len_kv", values.shape.seq_len_kv),
        })
    };
    match shape.sequences.kv {
        KeySequences::Uniform => {}
        KeySequences::Packed { .. } => {
            tensors.push(starts(AuxTensor::KvStarts).checked(|values| {
                let Shape { seq_len_kv, .. } = *values.shape;
                check_starts(values, values.shape.kv_rows()[1], "seq_len_kv", seq_len_kv)
            }));
        }
        KeySequences::Cached { left_padded: false } | KeySequences::Ring => {
            tensors.push(kv_lengths());
        }
        KeySequences::Cached { left_padded: true } => {
            tensors.extend([kv_lengths(), per_sequence(AuxTensor::KvFirst).checked(check_first)]);
        }
        KeySequences::Paged { blocks_per_sequence, .. } => {
            let row = AuxDim::new("blocks_per_sequence", "blocks", [blocks_per_sequence]);
            let dims = [AuxDim::batch(shape), row];
            let tables = AuxSpec::new(AuxTensor::BlockTables, AuxElement::I32, dims);
            tensors.extend([kv_lengths(), tables.checked(check_tables)]);
        }
    }
    tensors
}

/// Padding isn't longer than what is in the cache; the lengths have been checked.
fn check_first(values: &Values<'_>) -> Result<()> {
    values.each(|b, first| {
        let length = values.data.int(AuxTensor::KvLengths, b);
        let fits = (0..=length).contains(&first);
        (!fits).then(|| format!("0 to kv_lengths[{b}] = {length}"))
    })
}

/// Every entry that is used lies in the pool; the lengths have been checked.
fn check_tables(values: &Values<'_>) -> Result<()> {
    let KeySequences::Paged { block_size, blocks, blocks_per_sequence } = values.shape.sequences.kv
    else {
        return Ok(());
    };
    for b in 0..values.shape.batch {
        let used = (values.data.int(AuxTensor::KvLengths, b) as usize).div_ceil(block_size);
        let row = &values.words[b * blocks_per_sequence..][..used];
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

/// Cumulative lengths start at 0, never fall, end at `total`, and no sequence is longer than `most`.
fn check_starts(values: &Values<'_>, total: usize, limit: &str, most: usize) -> Result<()> {
    let words = values.words;
    if words[0] != 0 {
        return Err(values.wrong(0, "0"));
    }
    for (b, pair) in words.windows(2).enumerate() {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        if end < start || end - start > most || pair[1].cast_signed() < 0 {
            let expected = format!("{start} to {start} + {limit} = {}", start + most);
            return Err(values.wrong(b + 1, expected));
        }
    }
    let last = words.len() - 1;
    if words[last] as usize != total {
        return Err(values.wrong(last, format!("the number of packed rows, {total}")));
    }
    Ok(())
}
