//! Gradients in f64, by the formulas; finite differences of [`attention`] check them.

use super::score_cell;
use crate::auxiliary::AuxTensor;
use crate::error::Result;
use crate::mask::Evaluator;
use crate::problem::{Inputs, Problem, Resolved, Upstream};
use crate::score::{ALIBI, BIAS};
use crate::tensor::shape::Strides;

/// The gradients of a loss with respect to every operand, in f64.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct ReferenceGradients {
    /// In the order of the problem's strides of q; elements that no stride reaches are 0
    pub dq: Vec<f64>,
    /// In the order of the problem's strides of k
    pub dk: Vec<f64>,
    /// In the order of the problem's strides of v
    pub dv: Vec<f64>,
    /// As the bias, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]`; empty without one
    pub dbias: Vec<f64>,
    /// `[num_heads]`; empty without sinks
    pub dsinks: Vec<f64>,
    /// As ALiBi's slopes, `[batch|1, num_heads]`; empty without ALiBi
    pub dalibi_slopes: Vec<f64>,
}

/// The gradients of a loss whose gradients with respect to o and lse are `upstream`.
///
/// A masked cell has no share in any gradient, whatever the tensors hold there.
///
/// # Errors
/// As [`super::attention`]; and where dout or dlse doesn't fit.
pub fn gradients(
    problem: &Problem,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
) -> Result<ReferenceGradients> {
    let problem = &Resolved::new(problem.clone())?;
    let super::Forward { result: forward, softmax } = super::forward(problem, inputs)?;
    let dropout = super::dropout(problem, inputs);
    upstream.check(problem, &problem.o)?;
    let shape = problem.shape();
    let mask = Evaluator::new(&problem.mask, inputs.aux, shape)?;
    let strides = problem.strides;
    let at = |strides: Strides, index: [usize; 4]| -> usize {
        strides.to_array().iter().zip(index).map(|(stride, i)| stride * i).sum()
    };
    let scale = f64::from(problem.scale);
    let [q, k, v, dout] =
        [inputs.q, inputs.k, inputs.v, upstream.dout].map(|operand| operand.to_f32());
    let data = inputs.aux.shape().bias;
    let bias_dims = if problem.score.bias { data.dims(shape) } else { [0; 4] };
    let sinks = if problem.score.sinks { shape.num_heads } else { 0 };

    // [batch|1, num_heads]
    let slopes = problem.sizes_of(AuxTensor::AlibiSlopes).unwrap_or(&[0]);

    let mut result = ReferenceGradients {
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; v.len()],
        dbias: vec![0.0; bias_dims.iter().product()],
        dsinks: vec![0.0; sinks],
        dalibi_slopes: vec![0.0; slopes.iter().product()],
    };
    let places = mask.places();
    for b in 0..shape.batch {
        for h in 0..shape.num_heads {
            let h_kv = h / shape.group_size();
            for q_idx in 0..places.q_len(b) {
                let lse_index = places.lse_index(b, h, q_idx);
                let [q_batch, q_row] = places.q_place(b, q_idx);
                let dout = |d| f64::from(dout[at(strides.o, [q_batch, h, q_row, d])]);
                // delta = dout . o - dlse; what is exactly 0 has no share
                let share = |d: usize| match forward.o[at(strides.o, [q_batch, h, q_row, d])] {
                    0.0 => 0.0,
                    o => dout(d) * o,
                };
                let delta = (0..shape.head_dim_v).map(share).sum::<f64>()
                    - upstream.dlse.map_or(0.0, |dlse| f64::from(dlse[lse_index]));
                if problem.score.sinks {
                    let sink = f64::from(inputs.aux.sink(h));
                    // A sink of -inf is none, whatever the row's lse is.
                    if sink != f64::NEG_INFINITY {
                        result.dsinks[h] -= (sink - forward.lse[lse_index]).exp() * delta;
                    }
                }
                let row = (b * shape.num_heads + h) * shape.seq_len_q + q_idx;
                let kept = |kv_idx: &usize| mask.keep(b, h, q_idx, *kv_idx);
                for kv_idx in (0..places.kv_len(b)).filter(kept) {
                    let [kv_batch, kv_row] = places.kv_place(b, kv_idx);
                    let cell = row * shape.seq_len_kv + kv_idx;
                    let p = softmax[cell];
                    // dv += weight dout, dp = dout . v, back through the dropout
                    let mut dp = 0.0;
                    for d in 0..shape.head_dim_v {
                        let place = at(strides.v, [kv_batch, h_kv, kv_row, d]);
                        result.dv[place] += forward.weights[cell] * dout(d);
                        dp += dout(d) * f64::from(v[place]);
                    }
                    dp *= dropout.map_or(1.0, |d| d.factor([b, h, q_idx, kv_idx]));
                    // the gradient of the modified score, taken back through the modifiers, the last one first
                    let mut ds = p * (dp - delta);
                    let own = q_idx as f64 + places.diagonal(b) as f64;
                    let of_cell = score_cell(problem, inputs, [b, h, q_idx, kv_idx], own);
                    let mut before = vec![forward.scores[cell]];
                    for modifier in problem.score.used() {
                        let score = before[before.len() - 1];
                        before.push((modifier.apply)(score, &of_cell));
                    }
                    for (modifier, score) in
                        problem.score.used().zip(before).collect::<Vec<_>>().into_iter().rev()
                    {
                        // where the bias is added, the gradient is its own
                        if modifier.name == BIAS.name {
                            let place = at(data.element_strides(shape), [b, h, q_idx, kv_idx]);
                            result.dbias[place] += ds;
                        }
                        // a slope's is that of all scores that it lowers, by their distances
                        if modifier.name == ALIBI.name {
                            let of_b = if slopes[0] > 1 { b } else { 0 };
                            result.dalibi_slopes[of_b * shape.num_heads + h] -=
                                ds * of_cell.distance;
                        }
                        ds *= (modifier.slope)(score, &of_cell);
                    }
                    // dq += scale ds k, dk += scale ds q
                    for d in 0..shape.head_dim {
                        let q_place = at(strides.q, [q_batch, h, q_row, d]);
                        let k_place = at(strides.k, [kv_batch, h_kv, kv_row, d]);
                        result.dq[q_place] += scale * ds * f64::from(k[k_place]);
                        result.dk[k_place] += scale * ds * f64::from(q[q_place]);
                    }
                }
            }
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::super::attention;
    use super::*;
    use crate::auxiliary::AuxData;
    use crate::mask::Mask;
    use crate::score::ScoreModifiers;
    use crate::tensor::shape::Shape;

    /// Numbers in [-1, 1).
    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// The tensors that gradients are taken of.
    #[derive(Clone)]
    struct Point {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        bias: Vec<f32>,
        sinks: Vec<f32>,
        slopes: Vec<f32>,
    }

    impl Point {
        fn tensor(&mut self, which: usize) -> &mut Vec<f32> {
            let data = [&mut self.bias, &mut self.sinks, &mut self.slopes];
            [&mut self.q, &mut self.k, &mut self.v].into_iter().chain(data).nth(which).unwrap()
        }

        fn data(&self, dims: [usize; 4]) -> AuxData {
            AuxData::new()
                .key_lengths([5, 2])
                .bias(dims, self.bias.iter().copied())
                .sinks(self.sinks.iter().copied())
                .alibi_slopes_per_sequence([self.slopes.len() / 4, 4], self.slopes.iter().copied())
                .dropout_seed(11)
        }
    }

    /// loss = sum over dout o + sum over dlse lse, where lse is finite
    fn loss(problem: &Problem, point: &Point, dims: [usize; 4], up: &Upstream<'_>) -> f64 {
        let data = point.data(dims);
        let inputs = Inputs::new(&point.q, &point.k, &point.v).aux(&data);
        let forward = attention(&problem.clone().aux_shape(data.shape()), &inputs).unwrap();
        let dout = up.dout.to_f32();
        let o = forward.o.iter().zip(&*dout).map(|(&o, &x)| o * f64::from(x));
        let lse = forward.lse.iter().zip(up.dlse.unwrap_or_default());
        let lse = lse.filter(|(lse, _)| lse.is_finite()).map(|(&lse, &x)| lse * f64::from(x));
        o.sum::<f64>() + lse.sum::<f64>()
    }

    #[test]
    fn gradients_are_finite_differences() {
        let shape = Shape::new(2, 4, 3, 3).seq_len_kv(5).num_kv_heads(2).head_dim_v(2);
        let scores = [
            ScoreModifiers::default(),
            ScoreModifiers { softcap: Some(0.7), bias: true, alibi: true, sinks: true },
            ScoreModifiers { softcap: Some(2.0), sinks: true, ..ScoreModifiers::default() },
            ScoreModifiers { bias: true, alibi: true, ..ScoreModifiers::default() },
        ];
        for (seed, score) in (1..).zip(scores) {
            for (mask, bias_dims) in [
                ("causal & key_lengths", [2, 4, 3, 5]),
                ("causal(upper_left)", [1, 4, 1, 5]),
                ("key_lengths & not_self", [2, 1, 3, 5]),
                ("key_lengths | causal", [1, 4, 3, 1]),
            ] {
                for dropout in [0.0, 0.3] {
                    check(shape, (mask, dropout), score, bias_dims, seed);
                }
            }
        }
    }

    fn check(
        shape: Shape,
        (mask, dropout): (&str, f32),
        score: ScoreModifiers,
        bias_dims: [usize; 4],
        seed: u64,
    ) {
        let mask = mask.parse::<Mask>().unwrap();
        let problem = Problem::new(shape).mask(mask.clone()).score(score).scale(-0.9);
        let problem = problem.dropout(dropout);
        let mut point = Point {
            q: numbers(seed, shape.q_len().unwrap()),
            k: numbers(seed + 10, shape.k_len().unwrap()),
            v: numbers(seed + 20, shape.v_len().unwrap()),
            bias: numbers(seed + 30, bias_dims.iter().product()),
            sinks: numbers(seed + 40, 4),
            // Of all sequences, or of each.
            slopes: numbers(seed + 70, if dropout == 0.0 { 4 } else { 8 }),
        };
        let dout = numbers(seed + 50, shape.o_len().unwrap());
        let dlse = numbers(seed + 60, shape.lse_len().unwrap());
        let upstream = Upstream::new(&dout).dlse(&dlse);
        let data = point.data(bias_dims);
        let problem = problem.aux_shape(data.shape());
        let inputs = Inputs::new(&point.q, &point.k, &point.v).aux(&data);
        let found = gradients(&problem, &inputs, &upstream).unwrap();
        let data = [found.dbias, found.dsinks, found.dalibi_slopes];
        let found = [found.dq, found.dk, found.dv].into_iter().chain(data);
        for (which, gradient) in found.enumerate() {
            for (at, analytic) in gradient.into_iter().enumerate() {
                let value = point.tensor(which)[at];
                let mut moved = |to: f32| {
                    point.tensor(which)[at] = to;
                    (f64::from(to), loss(&problem, &point, bias_dims, &upstream))
                };
                let ((above, more), (below, less)) = (moved(value + 1e-3), moved(value - 1e-3));
                moved(value);
                let difference = (more - less) / (above - below);
                assert!(
                    (difference - analytic).abs() < 1e-6 + 1e-5 * analytic.abs(),
                    "{mask}, {score:?}, dropout {dropout}, tensor {which}[{at}]: {analytic}, by differences {difference}"
                );
            }
        }
    }
}
