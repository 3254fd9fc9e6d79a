//! From `is_causal`, the windows, `nonpad_kv_seqlen` and `attn_mask` to a mask and a bias.

use super::{AttnMask, Operator, OperatorInputs, Tensor, tensors};
use crate::auxiliary::AuxData;
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::tensor::shape::{MAX_SEQ_LEN, Shape};

/// What of a call isn't scale and softcap.
#[derive(Debug)]
pub(super) struct LoweredMask {
    pub(super) mask: Mask,
    /// Whether scores get a bias.
    pub(super) bias: bool,
    pub(super) data: AuxData,
}

/// The keys that a query at position `p` sees, `p − left ≤ key ≤ p + right`.
#[derive(Debug, Clone, Copy)]
struct Band {
    left: Option<i64>,
    right: Option<i64>,
}

/// The mask of a call whose sizes were checked.
///
/// # Errors
/// [`Error::Operand`] that names what doesn't fit.
pub(super) fn lower(
    operator: &Operator,
    inputs: &OperatorInputs<'_>,
    shape: &Shape,
    past_len: Option<usize>,
) -> Result<LoweredMask> {
    let mut leaves = Vec::new();
    let mut data = AuxData::new();
    let band = Band::new(operator);
    match inputs.nonpad_kv_seqlen {
        None => leaves.extend(band.at_offset(past_len.unwrap_or(0))),
        Some(lengths) => {
            let lengths = checked_lengths(lengths, shape, past_len)?;
            if band.left.is_some() || band.right.is_some() {
                // A position that differs from sequence to sequence, which the leaves with a closed form don't know.
                let rows = band.columns(&lengths, shape);
                data = data.column_ranges([shape.batch, 1, shape.seq_len_kv, 4], rows);
                leaves.push(Mask::ColumnRanges);
            }
            data = data.key_lengths(lengths);
            leaves.push(Mask::KeyLengths);
        }
    }
    let mut bias = false;
    match inputs.attn_mask {
        None => {}
        Some(AttnMask::Bool(tensor)) => {
            let (dims, keep) = padded(&tensor, false, shape)?;
            data = data.dense(dims, keep);
            leaves.push(Mask::Dense);
        }
        Some(AttnMask::Float(tensor)) => {
            let (dims, values) = padded(&tensor, f32::NEG_INFINITY, shape)?;
            let masked = |value: &f32| *value == f32::NEG_INFINITY;
            if values.iter().any(masked) {
                // As a mask it holds whatever the score is, NaN and ∞ included, and whole tiles can be skipped.
                data = data.dense(dims, values.iter().map(|value| !masked(value)));
                leaves.push(Mask::Dense);
            }
            let finite = values.iter().map(|value| if masked(value) { 0.0 } else { *value });
            data = data.bias(dims, finite);
            bias = true;
        }
    }
    let mask = leaves.into_iter().reduce(|all, leaf| all & leaf).unwrap_or(Mask::All);
    Ok(LoweredMask { mask, bias, data })
}

impl Band {
    /// The windows, and nothing behind the own position if causal.
    fn new(operator: &Operator) -> Self {
        let causal = operator.is_causal.then_some(0);
        Self {
            left: operator.left_window_size.map(i64::from),
            right: causal.or(operator.right_window_size.map(i64::from)),
        }
    }

    /// For queries at positions `offset + q_idx`: by two diagonals, which have closed forms at any offset.
    fn at_offset(self, offset: usize) -> impl Iterator<Item = Mask> {
        let offset = length(offset);
        let upper = self.right.map(|right| diagonal(offset + right));
        let lower = self.left.map(|left| !diagonal(offset - left - 1));
        upper.into_iter().chain(lower)
    }

    /// For queries at positions `lengths[b] − seq_len_q + q_idx`: for each key of each sequence two ranges of rows that
    /// don't see it, those too early and those too late.
    fn columns(self, lengths: &[i32], shape: &Shape) -> Vec<i32> {
        let rows = length(shape.seq_len_q);
        let row = |row: i64| row.clamp(0, rows) as i32;
        let column = |offset: i64, key: i64| {
            let early = self.right.map_or(0, |right| row(key - right - offset));
            let late = self.left.map_or(rows as i32, |left| row(key + left - offset + 1));
            [0, early, late, rows as i32]
        };
        let keys = length(shape.seq_len_kv);
        (lengths.iter().map(|&length| i64::from(length) - rows))
            .flat_map(|offset| (0..keys).flat_map(move |key| column(offset, key)))
            .collect()
    }
}

/// `key ≤ q_idx + offset`. Beyond the longest sequence an offset keeps all or none, as does the nearest that is in it.
fn diagonal(offset: i64) -> Mask {
    let most = MAX_SEQ_LEN as i64;
    Mask::causal_offset(offset.clamp(-most, most) as i32)
}

/// A length, of which those that are too long are refused by the shape later.
const fn length(length: usize) -> i64 {
    if length > MAX_SEQ_LEN { MAX_SEQ_LEN as i64 } else { length as i64 }
}

/// `nonpad_kv_seqlen` as key lengths.
fn checked_lengths(lengths: &[i64], shape: &Shape, past_len: Option<usize>) -> Result<Vec<i32>> {
    if past_len.is_some() {
        return Err(Error::operand("nonpad_kv_seqlen", "no past_key and past_value", "both"));
    }
    if lengths.len() != shape.batch {
        return Err(Error::operand(
            "nonpad_kv_seqlen",
            format!("{} elements ([batch_size])", shape.batch),
            format!("{} elements", lengths.len()),
        ));
    }
    let checked = |(b, &given): (usize, &i64)| match i32::try_from(given) {
        Ok(fits) if 0 <= given && given <= length(shape.seq_len_kv) => Ok(fits),
        _ => Err(Error::operand(
            format!("nonpad_kv_seqlen[{b}]"),
            format!("0 to kv_sequence_length = {}", shape.seq_len_kv),
            given,
        )),
    };
    lengths.iter().enumerate().map(checked).collect()
}

/// The mask with 4 dimensions and rows of full length, `pad` behind those that are shorter.
fn padded<T: Copy>(tensor: &Tensor<'_, T>, pad: T, shape: &Shape) -> Result<([usize; 4], Vec<T>)> {
    tensors::check_elements("attn_mask", tensor)?;
    let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = *shape;
    let full = [batch, num_heads, seq_len_q, seq_len_kv];
    let rank = tensor.dims.len();
    let mut dims = [1; 4];
    let fits = (1..=4).contains(&rank) && {
        dims[4 - rank..].copy_from_slice(tensor.dims);
        dims[3] <= seq_len_kv && (0..3).all(|at| dims[at] == full[at] || dims[at] == 1)
    };
    if !fits {
        return Err(Error::operand(
            "attn_mask",
            format!("sizes that broadcast to {full:?}, the last one at most that"),
            format!("{:?}", tensor.dims),
        ));
    }
    let row = std::mem::replace(&mut dims[3], seq_len_kv);
    let rows = crate::tensor::shape::elements("attn_mask", &dims[..3])?;
    let values = (0..rows)
        .flat_map(|at| {
            let own = tensor.values[at * row..][..row].iter().copied();
            own.chain(std::iter::repeat_n(pad, seq_len_kv - row))
        })
        .collect();
    Ok((dims, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Evaluator;

    /// Every cell of every window, with and without a past, against the operator's own words.
    #[test]
    fn bands_keep_what_the_operator_says() {
        let sides = [None, Some(0), Some(1), Some(3), Some(u32::MAX)];
        let sizes = [(4, 6, None), (4, 9, Some(5)), (5, 3, None), (3, 8, Some(0)), (1, 7, Some(6))];
        for (left_window_size, right_window_size) in
            sides.iter().flat_map(|left| sides.iter().map(|right| (*left, *right)))
        {
            for is_causal in [false, true] {
                let operator = Operator {
                    is_causal,
                    left_window_size,
                    right_window_size,
                    ..Operator::default()
                };
                for (rows, keys, past_len) in sizes {
                    check(&operator, rows, keys, past_len, None);
                    check(&operator, rows, keys, None, Some(&[0, 2, 3]));
                }
            }
        }
    }

    fn check(
        operator: &Operator,
        rows: usize,
        keys: usize,
        past_len: Option<usize>,
        nonpad: Option<&[i64]>,
    ) {
        let shape = Shape::new(3, 1, rows, 1).seq_len_kv(keys);
        let tensor = Tensor { dims: &[], values: &[] };
        let inputs = OperatorInputs {
            nonpad_kv_seqlen: nonpad,
            ..OperatorInputs::new(tensor, tensor, tensor)
        };
        let lowered = lower(operator, &inputs, &shape, past_len).unwrap();
        let mask = Evaluator::new(&lowered.mask, &lowered.data, &shape).unwrap();
        for (b, q_idx, key) in (0..3)
            .flat_map(|b| (0..rows).map(move |q_idx| (b, q_idx)))
            .flat_map(|(b, q_idx)| (0..keys).map(move |key| (b, q_idx, key)))
        {
            let offset = match nonpad {
                Some(lengths) => lengths[b] - rows as i64,
                None => past_len.unwrap_or(0) as i64,
            };
            let (position, at) = (q_idx as i64 + offset, key as i64);
            let expected = (!operator.is_causal || at <= position)
                && operator.left_window_size.is_none_or(|left| position - i64::from(left) <= at)
                && operator.right_window_size.is_none_or(|right| at <= position + i64::from(right))
                && nonpad.is_none_or(|lengths| at < lengths[b]);
            assert_eq!(
                mask.keep(b, 0, q_idx, key),
                expected,
                "{operator:?}, {rows} rows, {keys} keys, past {past_len:?}, {nonpad:?}: {b}, {q_idx}, {key}"
            );
        }
    }

    #[test]
    fn a_short_mask_masks_the_keys_behind_it() {
        let shape = Shape::new(2, 3, 2, 4).seq_len_kv(3);
        let tensor =
            Tensor { dims: &[3, 1, 2], values: &[1.0, 2.0, 3.0, f32::NEG_INFINITY, 5.0, 6.0] };
        let (dims, values) = padded(&tensor, f32::NEG_INFINITY, &shape).unwrap();
        assert_eq!(dims, [1, 3, 1, 3]);
        let none = f32::NEG_INFINITY;
        assert_eq!(values, [1.0, 2.0, none, 3.0, none, none, 5.0, 6.0, none]);
    }
}
