//! Sizes of the operator's inputs, and the cache that it makes of past and present.

use super::{Operator, OperatorInputs, Tensor};
use crate::error::{Error, Result};
use crate::tensor::shape::{Layout, Shape, elements};

/// The sizes of a call's inputs, which fit each other, each as `[batch, heads, seq, dim]`.
#[derive(Debug)]
pub(super) struct Sizes {
    pub(super) q: [usize; 4],
    /// Without the past.
    pub(super) k: [usize; 4],
    /// Without the past.
    pub(super) v: [usize; 4],
    pub(super) past_len: Option<usize>,
    pub(super) layout: Layout,
}

impl Sizes {
    /// # Errors
    /// [`Error::Operand`] that names what doesn't fit.
    pub(super) fn new(operator: &Operator, inputs: &OperatorInputs<'_>) -> Result<Self> {
        let q = dims4("Q", &inputs.q, ("q_num_heads", operator.q_num_heads))?;
        let k = dims4("K", &inputs.k, ("kv_num_heads", operator.kv_num_heads))?;
        let v = dims4("V", &inputs.v, ("kv_num_heads", operator.kv_num_heads))?;
        for (name, tensor) in [("K", &inputs.k), ("V", &inputs.v)] {
            same(&format!("{name}'s dimensions"), inputs.q.dims.len(), tensor.dims.len())?;
        }
        same("K's batch_size", q[0], k[0])?;
        same("K's head_size", q[3], k[3])?;
        same("V's batch_size", q[0], v[0])?;
        same("V's heads", k[1], v[1])?;
        same("V's kv_sequence_length", k[2], v[2])?;
        let past_len = match &inputs.past {
            None => None,
            Some([past_k, past_v]) => {
                let length = past_length("past_key", past_k, k)?;
                same(
                    "past_value's past_sequence_length",
                    length,
                    past_length("past_value", past_v, v)?,
                )?;
                Some(length)
            }
        };
        let layout = if inputs.q.dims.len() == 3 { Layout::Bshd } else { Layout::Bhsd };
        Ok(Self { q, k, v, past_len, layout })
    }

    /// The problem's, with the past.
    pub(super) fn shape(&self) -> Shape {
        let [batch, num_heads, seq_len_q, head_dim] = self.q;
        Shape::new(batch, num_heads, seq_len_q, head_dim)
            .seq_len_kv(self.past_len.unwrap_or(0).saturating_add(self.k[2]))
            .num_kv_heads(self.k[1])
            .head_dim_v(self.v[3])
    }
}

/// The sizes of `Y`.
pub(super) fn y_dims(shape: &Shape, layout: Layout) -> Vec<usize> {
    let Shape { batch, num_heads, seq_len_q, head_dim_v, .. } = *shape;
    match layout {
        Layout::Bhsd => vec![batch, num_heads, seq_len_q, head_dim_v],
        Layout::Bshd => vec![batch, seq_len_q, num_heads * head_dim_v],
    }
}

/// Heads of rows, the past's before the new ones, which have sizes `dims` and lie in `layout`. The past's length is
/// what its number of elements says.
pub(super) fn append(past: &[f32], new: &[f32], dims: [usize; 4], layout: Layout) -> Vec<f32> {
    let [batch, heads, seq, dim] = dims;
    if past.is_empty() && new.is_empty() {
        // However many heads there are.
        return Vec::new();
    }
    let strides = layout.strides(dims);
    let past_head = past.len() / (batch * heads).max(1);
    let mut cache = Vec::with_capacity(past.len() + new.len());
    for b in 0..batch {
        for h in 0..heads {
            cache.extend(&past[(b * heads + h) * past_head..][..past_head]);
            for row in 0..seq {
                cache.extend(
                    &new[b * strides.batch + h * strides.head + row * strides.seq..][..dim],
                );
            }
        }
    }
    cache
}

/// `[batch, heads, seq, dim]` of an input of 3 or 4 dimensions.
fn dims4(name: &str, tensor: &Tensor<'_>, heads: (&str, Option<usize>)) -> Result<[usize; 4]> {
    check_elements(name, tensor)?;
    let dims = match (tensor.dims, heads) {
        (&[batch, own, seq, dim], (attribute, given)) => {
            same(attribute, own, given.unwrap_or(own))?;
            [batch, own, seq, dim]
        }
        (&[batch, seq, hidden], (_, Some(heads))) if heads > 0 && hidden.is_multiple_of(heads) => {
            [batch, heads, seq, hidden / heads]
        }
        (&[_, _, hidden], (attribute, given)) => {
            return Err(Error::operand(
                attribute,
                format!("a divisor of {name}'s hidden size {hidden}"),
                given.map_or_else(|| "none".to_owned(), |heads| heads.to_string()),
            ));
        }
        (dims, _) => {
            return Err(Error::operand(name, "3 or 4 dimensions", format!("{dims:?}")));
        }
    };
    Ok(dims)
}

/// The past's length, where it goes before an input of sizes `dims`.
fn past_length(name: &str, past: &Tensor<'_>, [batch, heads, _, dim]: [usize; 4]) -> Result<usize> {
    check_elements(name, past)?;
    match *past.dims {
        [b, h, length, d] if [b, h, d] == [batch, heads, dim] => Ok(length),
        _ => Err(Error::operand(
            name,
            format!("[{batch}, {heads}, past_sequence_length, {dim}]"),
            format!("{:?}", past.dims),
        )),
    }
}

/// Whether a tensor has as many elements as its sizes say.
pub(super) fn check_elements<T>(name: &str, tensor: &Tensor<'_, T>) -> Result<()> {
    let expected = elements(name, tensor.dims)?;
    if tensor.values.len() == expected {
        return Ok(());
    }
    Err(Error::operand(
        name,
        format!("{expected} elements ({:?})", tensor.dims),
        format!("{} elements", tensor.values.len()),
    ))
}

fn same(name: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::operand(name, expected, found)) }
}
