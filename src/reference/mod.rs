//! Attention in f64 on the CPU: short enough to be checked by eye, and what everything else is compared with.
//!
//! It shares nothing with the kernels but the mask's own evaluator ([`Evaluator`]).

mod block_index;
mod gradients;

pub use block_index::block_indices;
pub use gradients::{ReferenceGradients, gradients};

pub use crate::score::dropout::Dropout;

use crate::error::{Error, Result};
use crate::mask::Evaluator;
use crate::problem::{Inputs, Problem, Resolved};
use crate::score::Cell;

/// Every output in f64.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reference {
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, in the order of the problem's strides of o; elements that no
    /// stride reaches, or that belong to no sequence, are 0
    pub o: Vec<f64>,
    /// `[batch, num_heads, seq_len_q]`; −∞ in rows that keep no key, and in those that belong to no sequence
    pub lse: Vec<f64>,
    /// `[batch, num_heads, seq_len_q, seq_len_kv]`; beyond a sequence's own lengths as where it is masked, scores 0
    pub scores: Vec<f64>,
    /// `[batch, num_heads, seq_len_q, seq_len_kv]`
    pub masked_scores: Vec<f64>,
    /// `[batch, num_heads, seq_len_q, seq_len_kv]`, with dropout
    pub weights: Vec<f64>,
}

/// What the gradients are made of.
struct Forward {
    result: Reference,
    /// The weights before dropout.
    softmax: Vec<f64>,
}

/// Computes a problem in f64.
///
/// # Errors
/// [`crate::Error::Operand`] where the problem is invalid, or an operand or the mask's data doesn't fit.
pub fn attention(problem: &Problem, inputs: &Inputs<'_>) -> Result<Reference> {
    Ok(forward(&Resolved::new(problem.clone())?, inputs)?.result)
}

/// The dropout of a checked problem.
fn dropout(problem: &Resolved, inputs: &Inputs<'_>) -> Option<Dropout> {
    problem.drops().map(|p| Dropout::new(p, inputs.aux.get_dropout_seed()))
}

/// The same of a checked problem.
fn forward(problem: &Resolved, inputs: &Inputs<'_>) -> Result<Forward> {
    if problem.score_mod.is_some() {
        return Err(Error::operand("score_mod", "none, for the CPU can't evaluate WGSL", "one"));
    }
    let shape = problem.shape();
    inputs.check(problem)?;
    let mask = Evaluator::new(&problem.mask, inputs.aux, shape)?;
    let strides = problem.strides;
    let at = |strides: [usize; 4], index: [usize; 4]| -> usize {
        strides.iter().zip(index).map(|(stride, i)| stride * i).sum()
    };
    let [q_strides, k_strides, v_strides, o_strides] =
        [strides.q, strides.k, strides.v, strides.o].map(crate::tensor::shape::Strides::to_array);
    let scale = f64::from(problem.scale);
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|operand| operand.to_f32());

    let cells = shape.scores_len()?;
    let mut result = Reference {
        o: vec![0.0; problem.o.span],
        lse: vec![f64::NEG_INFINITY; problem.lse_len],
        scores: vec![0.0; cells],
        masked_scores: vec![f64::NEG_INFINITY; cells],
        weights: vec![0.0; cells],
    };
    let mut softmax = vec![0.0; cells];
    let dropout = dropout(problem, inputs);
    let places = mask.places();
    for b in 0..shape.batch {
        for h in 0..shape.num_heads {
            let h_kv = h / shape.group_size();
            let keys = places.kv_len(b);
            for q_idx in 0..places.q_len(b) {
                let [q_batch, q_row] = places.q_place(b, q_idx);
                // score = scale * (q . k)
                let scores: Vec<f64> = (0..keys)
                    .map(|kv_idx| {
                        let [batch, row] = places.kv_place(b, kv_idx);
                        let product = |d| {
                            let q = q[at(q_strides, [q_batch, h, q_row, d])];
                            let k = k[at(k_strides, [batch, h_kv, row, d])];
                            f64::from(q) * f64::from(k)
                        };
                        (0..shape.head_dim).map(product).sum::<f64>() * scale
                    })
                    .collect();
                // softcap, bias, ALiBi
                let modify = |kv_idx: usize| {
                    let own = q_idx as f64 + places.diagonal(b) as f64;
                    let cell = score_cell(problem, inputs, [b, h, q_idx, kv_idx], own);
                    problem.score.apply(scores[kv_idx], &cell)
                };
                // masked = modified score where kept, else -inf
                let kept: Vec<bool> =
                    (0..keys).map(|kv_idx| mask.keep(b, h, q_idx, kv_idx)).collect();
                let masked: Vec<f64> = (0..keys)
                    .map(|kv_idx| if kept[kv_idx] { modify(kv_idx) } else { f64::NEG_INFINITY })
                    .collect();
                // weight = exp(masked - lse), lse = ln(sum exp(masked) + exp(sink)); a row that keeps nothing has
                // weights of 0
                let sink = match problem.score.sinks {
                    true => f64::from(inputs.aux.sink(h)),
                    false => f64::NEG_INFINITY,
                };
                let largest = masked.iter().copied().fold(sink, f64::max);
                let base = if largest == f64::NEG_INFINITY { 0.0 } else { largest };
                let exponentials: Vec<f64> = masked.iter().map(|m| (m - base).exp()).collect();
                let sum = exponentials.iter().sum::<f64>() + (sink - base).exp();
                let shares: Vec<f64> = (exponentials.iter().zip(&kept))
                    .map(|(e, &keep)| if keep && sum != 0.0 { e / sum } else { 0.0 })
                    .collect();
                // some are dropped
                let factor = |kv_idx| dropout.map_or(1.0, |d| d.factor([b, h, q_idx, kv_idx]));
                let weights: Vec<f64> =
                    (shares.iter().enumerate()).map(|(at, share)| share * factor(at)).collect();
                // o = sum over the kept keys of weight * v; what isn't finite counts as it is, whatever its weight
                for d in 0..shape.head_dim_v {
                    let term = |kv_idx: usize| {
                        let [batch, row] = places.kv_place(b, kv_idx);
                        let v = f64::from(v[at(v_strides, [batch, h_kv, row, d])]);
                        match weights[kv_idx].is_finite() && !v.is_finite() {
                            true => v,
                            false => weights[kv_idx] * v,
                        }
                    };
                    let o = (0..keys).filter(|&kv_idx| kept[kv_idx]).map(term);
                    result.o[at(o_strides, [q_batch, h, q_row, d])] = o.sum();
                }
                result.lse[places.lse_index(b, h, q_idx)] = base + sum.ln();
                let row = (b * shape.num_heads + h) * shape.seq_len_q + q_idx;
                let cells = row * shape.seq_len_kv..row * shape.seq_len_kv + keys;
                result.scores[cells.clone()].copy_from_slice(&scores);
                result.masked_scores[cells.clone()].copy_from_slice(&masked);
                result.weights[cells.clone()].copy_from_slice(&weights);
                softmax[cells].copy_from_slice(&shares);
            }
        }
    }
    Ok(Forward { result, softmax })
}

/// What score modifiers read at a cell `[b, h, q_idx, kv_idx]`; `own` is the query's own position.
fn score_cell(problem: &Problem, inputs: &Inputs<'_>, at: [usize; 4], own: f64) -> Cell {
    let [b, h, _, kv_idx] = at;
    let data = inputs.aux;
    Cell {
        softcap: problem.score.softcap.map_or(0.0, f64::from),
        bias: if problem.score.bias { f64::from(data.bias_at(at)) } else { 0.0 },
        alibi_slope: if problem.score.alibi { f64::from(data.alibi_slope(b, h)) } else { 0.0 },
        distance: (own - kv_idx as f64).abs(),
    }
}
