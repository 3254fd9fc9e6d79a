//! What shaders/sequences/check.wgsl found, in words.

use crate::error::{Error, Result};
use crate::tensor::sequences::{KeySequences, QuerySequences};
use crate::tensor::shape::Shape;

/// Nothing, or the first sequence whose data is wrong, from the word of the kernel.
pub(crate) fn check(shape: &Shape, word: u32) -> Result<()> {
    let Some(at) = word.checked_sub(1) else {
        return Ok(());
    };
    let (b, of_keys) = (at / 2, at % 2 == 1);
    let rows = if of_keys { shape.kv_rows()[1] } else { shape.q_rows()[1] };
    let starts = |most| format!("starts that rise by 0 to {most} and stay within {rows} rows");
    let (operand, expected) = match (of_keys, shape.sequences.q, shape.sequences.kv) {
        (false, QuerySequences::Packed { .. }, _) => {
            (format!("q_starts[{b}] and [{}]", b + 1), starts(shape.seq_len_q))
        }
        (false, ..) => (format!("q_lengths[{b}]"), format!("0 to seq_len_q = {}", shape.seq_len_q)),
        (true, _, KeySequences::Packed { .. }) => {
            (format!("kv_starts[{b}] and [{}]", b + 1), starts(shape.seq_len_kv))
        }
        (true, _, KeySequences::Ring) => {
            (format!("kv_lengths[{b}]"), format!("0 to {}", crate::tensor::shape::MAX_SEQ_LEN))
        }
        (true, _, KeySequences::Paged { blocks, .. }) => (
            format!("kv_lengths[{b}] or block_tables[{b}]"),
            format!("0 to seq_len_kv = {}, and blocks below {blocks}", shape.seq_len_kv),
        ),
        (true, ..) => (
            format!("kv_lengths[{b}] or kv_first[{b}]"),
            format!("kv_first to seq_len_kv = {}", shape.seq_len_kv),
        ),
    };
    Err(Error::operand(operand, expected, "something else on the device"))
}
