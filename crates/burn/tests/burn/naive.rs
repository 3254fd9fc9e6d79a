//! Attention composed of burn's own operators, with its matrix of scores.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use wgpu_attention::Shape;
use wgpu_attention::mask::Evaluator;

use crate::case::{Case, Tensors};

/// The cells that a mask doesn't keep: `[batch, heads, seq_q, seq_kv]`, true where burn masks.
pub(crate) fn masked(case: &Case, device: &Device) -> Tensor<4, Bool> {
    let shape = case.shape;
    let mask = Evaluator::new(&case.mask, &case.data, &shape).expect("a valid case");
    let Shape { batch, num_heads, seq_len_q, seq_len_kv, .. } = shape;
    let mut cells = Vec::new();
    for b in 0..batch {
        for h in 0..num_heads {
            for q in 0..seq_len_q {
                cells.extend((0..seq_len_kv).map(|kv| !mask.keep(b, h, q, kv)));
            }
        }
    }
    let dims = [batch, num_heads, seq_len_q, seq_len_kv];
    Tensor::from_data(TensorData::new(cells, dims), device)
}

/// Each kv head as often as query heads read it.
fn repeated(tensor: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv_heads, seq, dim] = tensor.dims();
    let group = heads / kv_heads;
    if group == 1 {
        return tensor;
    }
    let tensor = tensor.reshape([batch, kv_heads, 1, seq * dim]).repeat_dim(2, group);
    tensor.reshape([batch, heads, seq, dim])
}

/// o. Every row must keep a key; ALiBi isn't among what it has.
pub(crate) fn attention(case: &Case, tensors: &Tensors) -> Tensor<4> {
    let Tensors { q, k, v, bias, sinks, .. } = tensors.clone();
    let [batch, heads, seq, _] = q.dims();
    let (k, v) = (repeated(k, heads), repeated(v, heads));
    let scale = case.scale.unwrap_or_else(|| case.shape.default_scale());
    let mut scores = q.matmul(k.swap_dims(2, 3)).mul_scalar(scale);
    if let Some(softcap) = case.softcap {
        scores = scores.div_scalar(softcap).tanh().mul_scalar(softcap);
    }
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let masked = masked(case, &scores.device());
    scores = scores.mask_fill(masked, f32::NEG_INFINITY);
    let keys = scores.dims()[3];
    let weights = match sinks {
        // A column that takes part in the softmax, and has no value.
        Some(sinks) => {
            let column = sinks.reshape([1, heads, 1, 1]).expand([batch, heads, seq, 1]);
            softmax(Tensor::cat(vec![scores, column], 3), 3).narrow(3, 0, keys)
        }
        None => softmax(scores, 3),
    };
    weights.matmul(v)
}
