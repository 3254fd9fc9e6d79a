//! Every tolerance, and the naive computation that they are measured in.

use wgpu_attention::mask::Evaluator;
use wgpu_attention::reference::Dropout;
use wgpu_attention::{Dtype, Gradients, Inputs, Problem, ScoreModifiers, Upstream};

use crate::operands::{DROPOUT_SEED, ScoreData};

/// The largest error against f64 is at most this many times that of a naive computation in the tensors' type …
const NAIVE_FACTOR: f64 = 2.0;
/// … three times for gradients, which pass through one more product …
const GRADIENT_FACTOR: f64 = 3.0;
/// … plus this share of the largest value.
const FLOOR: f64 = 1e-6;

/// Of a score below 1000 in magnitude, the sum of some 20 products of f32.
pub(crate) const SCORES_ERROR: f64 = 1e-3;
/// Of a weight made from such scores, and of a sum of values below 8 by such weights.
pub(crate) const WEIGHTS_ERROR: f64 = 1e-4;
/// Between a cache of 8 bits and one of the numbers that its rows stand for, worked out on the CPU: these may be off by a
/// rounding of f32, which moves scores of up to 256 by 16 · 64 · 2^-24, and values below 8 by twice 8 times that.
pub(crate) const DEQUANTIZED_ERROR: f32 = 1e-3;
/// What sums of equal terms may be off by, of the largest number.
pub(crate) const LONG_SUM: f64 = 1e-4;
/// Of a component that a rotary embedding turned, below 12 in magnitude: three roundings of f32.
pub(crate) const ROTARY_ERROR: f64 = 3e-6;
/// The same behind a Hadamard matrix, below 68 in magnitude: 12 roundings of f32.
pub(crate) const HADAMARD_ERROR: f32 = 5e-5;
/// Of a component stored in 8 bits, in the row's largest: half a 127th, and the roundings of f32.
pub(crate) const I8_ERROR: f32 = 1.0001 / 254.0;
/// Of a component stored in 4 bits, in its group's range, zero included: the smallest scale, 0.92 · 31/32 fifteenths of that,
/// leaves out a half of the rest, and the zero point is rounded by half a scale.
pub(crate) const I4_ERROR: f32 = 0.085;

/// What a random problem's results may be off by that are stored in `dtype`, of the largest number, or of 1 where that is larger: some
/// 20 roundings of the type, for windows and folds round what they leave behind. Operands are as stored, sums in f32.
pub(crate) const fn error_of(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 5e-3,
        Dtype::Bf16 => 4e-2,
        _ => 5e-5,
    }
}

/// Fails where `actual` is further from `truth` than [`NAIVE_FACTOR`] times `naive` is, plus [`FLOOR`].
/// What isn't finite must be equal: −∞ for −∞, NaN for NaN.
pub(crate) fn assert_close(what: &str, actual: &[f32], naive: &[f32], truth: &[f64]) {
    close(what, actual, naive, truth).unwrap_or_else(|message| panic!("{message}"));
}

/// The same with [`GRADIENT_FACTOR`].
pub(crate) fn assert_gradient_close(what: &str, actual: &[f32], naive: &[f32], truth: &[f64]) {
    gradient_close(what, actual, naive, truth).unwrap_or_else(|message| panic!("{message}"));
}

/// What [`assert_close`] fails with.
pub(crate) fn close(
    what: &str,
    actual: &[f32],
    naive: &[f32],
    truth: &[f64],
) -> Result<(), String> {
    within(what, actual, naive, truth, NAIVE_FACTOR)
}

/// What [`assert_gradient_close`] fails with.
pub(crate) fn gradient_close(
    what: &str,
    actual: &[f32],
    naive: &[f32],
    truth: &[f64],
) -> Result<(), String> {
    within(what, actual, naive, truth, GRADIENT_FACTOR)
}

fn within(
    what: &str,
    actual: &[f32],
    naive: &[f32],
    truth: &[f64],
    factor: f64,
) -> Result<(), String> {
    for (elements, of) in
        [(actual.len(), "elements"), (naive.len(), "elements of the naive result")]
    {
        if elements != truth.len() {
            return Err(format!("{what}: {elements} {of} instead of {}", truth.len()));
        }
    }
    let largest = (truth.iter().map(|x| x.abs()).filter(|x| x.is_finite())).fold(0.0, f64::max);
    let naive_error = (naive.iter().zip(truth)).map(|(&x, &y)| error(x, y)).fold(0.0, f64::max);
    let allowed = factor * naive_error + FLOOR * largest;
    for (at, (&x, &y)) in actual.iter().zip(truth).enumerate() {
        let found = error(x, y);
        let right = found <= allowed;
        if !right {
            return Err(format!(
                "{what}[{at}]: {x} instead of {y}, an error of {found:.2e}; allowed are \
                 {allowed:.2e}, the naive computation's is {naive_error:.2e}"
            ));
        }
    }
    Ok(())
}

/// The distance of two numbers: 0 if both are the same infinity or NaN, infinite if only one is.
fn error(x: f32, y: f64) -> f64 {
    let x = f64::from(x);
    if x == y || (x.is_nan() && y.is_nan()) {
        return 0.0;
    }
    let distance = (x - y).abs();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// Every output, computed in f32 as a textbook would: scores, maximum, exponentials, sum, weighted values.
pub(crate) struct Naive {
    pub(crate) o: Vec<f32>,
    pub(crate) lse: Vec<f32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) masked_scores: Vec<f32>,
    /// After dropout, and before.
    pub(crate) weights: Vec<f32>,
    pub(crate) softmax: Vec<f32>,
}

/// As the device computes it: where `fma` rounds once, as on GPUs, a score has other roundings than a product and a sum have.
/// With few rows, which of both comes nearer to the truth is luck.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let fuses = crate::fuses();
    let add = |sum: f32, (x, y): (&f32, &f32)| if fuses { x.mul_add(*y, sum) } else { sum + x * y };
    x.iter().zip(y).fold(0.0, add)
}

/// The naive f32 computation of a problem without score modifiers on dense `[batch, heads, seq, dim]` tensors.
pub(crate) fn naive(problem: &Problem, mask: &wgpu_attention::Mask, inputs: &Inputs<'_>) -> Naive {
    naive_modified(
        problem,
        mask,
        inputs,
        &ScoreModifiers::default(),
        &ScoreData::default(),
        Dtype::F32,
    )
}

/// The naive computation of a problem on dense `[batch, heads, seq, dim]` tensors, with scores, weights and outputs of
/// `dtype` and sums in f32.
pub(crate) fn naive_modified(
    problem: &Problem,
    mask: &wgpu_attention::Mask,
    inputs: &Inputs<'_>,
    score: &ScoreModifiers,
    data: &ScoreData,
    dtype: Dtype,
) -> Naive {
    let round = |x: f32| dtype.round(x);
    let shape = problem.shape();
    let mask = Evaluator::new(mask, inputs.aux, shape).unwrap();
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|operand| operand.to_f32());
    let mut result = Naive {
        o: Vec::new(),
        lse: Vec::new(),
        scores: Vec::new(),
        masked_scores: Vec::new(),
        weights: Vec::new(),
        softmax: Vec::new(),
    };
    let dropout = Dropout::new(problem.get_dropout(), DROPOUT_SEED);
    let (dim, dim_v) = (shape.head_dim, shape.head_dim_v);
    for b in 0..shape.batch {
        for h in 0..shape.num_heads {
            let head = b * shape.num_kv_heads + h / shape.group_size();
            let keys = &k[head * shape.seq_len_kv * dim..];
            let values = &v[head * shape.seq_len_kv * dim_v..];
            for q_idx in 0..shape.seq_len_q {
                let row = (b * shape.num_heads + h) * shape.seq_len_q + q_idx;
                let query = &q[row * dim..][..dim];
                let scores: Vec<f32> = (0..shape.seq_len_kv)
                    .map(|kv_idx| {
                        let key = &keys[kv_idx * dim..][..dim];
                        dot(query, key) * problem.get_scale()
                    })
                    .collect();
                let keep: Vec<bool> =
                    (0..shape.seq_len_kv).map(|kv_idx| mask.keep(b, h, q_idx, kv_idx)).collect();
                let modify = |kv_idx: usize| {
                    let mut value = round(scores[kv_idx]);
                    if let Some(softcap) = score.softcap {
                        value = softcap * (value / softcap).tanh();
                    }
                    if score.bias {
                        value += data.bias[row * shape.seq_len_kv + kv_idx];
                    }
                    if score.alibi {
                        let own = (q_idx + shape.seq_len_kv) as f32 - shape.seq_len_q as f32;
                        value -= data.slopes[h] * (own - kv_idx as f32).abs();
                    }
                    value
                };
                let masked: Vec<f32> = (0..shape.seq_len_kv)
                    .map(|kv_idx| if keep[kv_idx] { modify(kv_idx) } else { f32::NEG_INFINITY })
                    .collect();
                let sink = if score.sinks { data.sinks[h] } else { f32::NEG_INFINITY };
                let largest = masked.iter().copied().fold(sink, f32::max);
                let base = if largest.is_finite() { largest } else { 0.0 };
                let weights: Vec<f32> =
                    masked.iter().map(|score| round((score - base).exp())).collect();
                let sum = weights.iter().sum::<f32>() + (sink - base).exp();
                let norm = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                let dropped: Vec<f32> = (weights.iter().enumerate())
                    .map(|(kv_idx, w)| w * dropout.factor([b, h, q_idx, kv_idx]) as f32)
                    .collect();
                for d in 0..dim_v {
                    let kept = (0..shape.seq_len_kv).filter(|&kv_idx| keep[kv_idx]);
                    let o: f32 =
                        kept.map(|kv_idx| dropped[kv_idx] * values[kv_idx * dim_v + d]).sum();
                    result.o.push(round(o * norm));
                }
                result.lse.push(base + sum.ln());
                result.weights.extend(dropped.iter().map(|weight| weight * norm));
                result.softmax.extend(weights.iter().map(|weight| weight * norm));
                result.scores.extend(scores.iter().map(|&score| round(score)));
                result.masked_scores.extend(masked);
            }
        }
    }
    result
}

/// The gradients of a problem without score modifiers on dense `[batch, heads, seq, dim]` tensors, computed in f32 as a
/// textbook would: from the weights and outputs of [`naive`].
pub(crate) fn naive_gradients(
    problem: &Problem,
    mask: &wgpu_attention::Mask,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
) -> Gradients {
    let none = (ScoreModifiers::default(), ScoreData::default());
    naive_gradients_modified(problem, mask, inputs, upstream, &none.0, &none.1, Dtype::F32)
}

/// The same with score modifiers, for tensors of `dtype` and sums in f32. The bias is `[batch, num_heads, seq_len_q,
/// seq_len_kv]`.
pub(crate) fn naive_gradients_modified(
    problem: &Problem,
    mask: &wgpu_attention::Mask,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    score: &ScoreModifiers,
    data: &ScoreData,
    dtype: Dtype,
) -> Gradients {
    let forward = naive_modified(problem, mask, inputs, score, data, dtype);
    let (shape, scale) = (problem.shape(), problem.get_scale());
    let evaluator = Evaluator::new(mask, inputs.aux, shape).unwrap();
    let dropout = Dropout::new(problem.get_dropout(), DROPOUT_SEED);
    let (dim, dim_v) = (shape.head_dim, shape.head_dim_v);
    let [q, k, v, dout] =
        [inputs.q, inputs.k, inputs.v, upstream.dout].map(|operand| operand.to_f32());
    let mut result = Gradients::default();
    result.dq = vec![0.0; q.len()];
    result.dk = vec![0.0; k.len()];
    result.dv = vec![0.0; v.len()];
    result.dbias = vec![0.0; if score.bias { shape.scores_len().unwrap() } else { 0 }];
    result.dsinks = vec![0.0; if score.sinks { shape.num_heads } else { 0 }];
    result.dalibi_slopes = vec![0.0; if score.alibi { shape.num_heads } else { 0 }];
    for row in 0..shape.lse_len().unwrap() {
        let q_idx = row % shape.seq_len_q;
        let h = row / shape.seq_len_q % shape.num_heads;
        let b = row / shape.seq_len_q / shape.num_heads;
        let head = b * shape.num_kv_heads + h / shape.group_size();
        let dout = &dout[row * dim_v..][..dim_v];
        let o = &forward.o[row * dim_v..][..dim_v];
        let delta = dot(dout, o) - upstream.dlse.map_or(0.0, |dlse| dlse[row]);
        if score.sinks {
            result.dsinks[h] -= (data.sinks[h] - forward.lse[row]).exp() * delta;
        }
        for kv_idx in (0..shape.seq_len_kv).filter(|&kv_idx| evaluator.keep(b, h, q_idx, kv_idx)) {
            let (key, cell) = (head * shape.seq_len_kv + kv_idx, row * shape.seq_len_kv + kv_idx);
            let [p, weight] =
                [&forward.softmax, &forward.weights].map(|weights| dtype.round(weights[cell]));
            let value = &v[key * dim_v..][..dim_v];
            let factor = dropout.factor([b, h, q_idx, kv_idx]) as f32;
            let dp = dtype.round(dout.iter().zip(value).map(|(x, y)| x * y).sum()) * factor;
            let mut ds = dtype.round(p * (dp - delta));
            for (dv, x) in result.dv[key * dim_v..][..dim_v].iter_mut().zip(dout) {
                *dv += weight * x;
            }
            if score.bias {
                result.dbias[cell] = ds;
            }
            if score.alibi {
                let own = (q_idx + shape.seq_len_kv) as f32 - shape.seq_len_q as f32;
                result.dalibi_slopes[h] -= ds * (own - kv_idx as f32).abs();
            }
            if let Some(softcap) = score.softcap {
                ds *= 1.0 - (forward.scores[cell] / softcap).tanh().powi(2);
            }
            for d in 0..dim {
                result.dq[row * dim + d] += scale * ds * k[key * dim + d];
                result.dk[key * dim + d] += scale * ds * q[row * dim + d];
            }
        }
    }
    result
}
