//! Whether what was given is there, fits the problem, and holds what a kernel may go by.

use super::{MaskData, MaskInput};
use crate::error::{Error, Result};
use crate::sequences::KeySequences;
use crate::shape::{MAX_SEQ_LEN, Shape, elements};

impl MaskData {
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
fn check_order(words: &[u32]) -> Result<()> {
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
