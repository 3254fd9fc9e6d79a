//! The right result, in f64. That of a training step is the gradients, in [`gradients`].

use anyhow::Result;

use super::case::{Case, Operands};
use super::difference::{Difference, Differences};
use super::gradients;

/// How many rows of each head are checked, from the first to the last, where there are as many.
const CHECKED_ROWS: usize = 64;

/// Compares some rows of every head with attention in f64, or the gradients of some heads.
pub(super) fn difference(case: &Case, operands: &Operands, found: &[f32]) -> Result<Difference> {
    match case.backward {
        true => gradients::difference(case, operands, found),
        false => of_output(case, operands, found),
    }
}

/// Compares some rows of every head of o.
fn of_output(case: &Case, operands: &Operands, o: &[f32]) -> Result<Difference> {
    let (dim, seq_q, seq) = (case.dim, case.seq_q, case.seq);
    let expected = case.batch * case.heads * seq_q * dim;
    anyhow::ensure!(o.len() == expected, "it gave {} elements instead of {expected}", o.len());
    let scale = 1.0 / (dim as f64).sqrt();
    let mut sums = Differences::default();
    for (b, h) in (0..case.batch).flat_map(|b| (0..case.heads).map(move |h| (b, h))) {
        let h_kv = h / (case.heads / case.kv_heads);
        let kv = (b * case.kv_heads + h_kv) * seq * dim;
        let checked = CHECKED_ROWS.min(seq_q);
        let rows = (0..checked).map(|at| at * (seq_q - 1) / (checked - 1).max(1));
        for q_idx in rows {
            let at = ((b * case.heads + h) * seq_q + q_idx) * dim;
            let q = &operands.q[at..][..dim];
            let row = |tensor: &'_ [f32], kv_idx: usize| -> Vec<f64> {
                tensor[kv + kv_idx * dim..][..dim].iter().map(|&x| f64::from(x)).collect()
            };
            let scores: Vec<f64> = (0..case.kept(b, q_idx))
                .map(|kv_idx| {
                    let k = row(&operands.k, kv_idx);
                    q.iter().zip(k).map(|(&q, k)| f64::from(q) * k).sum::<f64>() * scale
                })
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut reference = vec![0.0; dim];
            for (kv_idx, weight) in weights.iter().enumerate() {
                for (total, v) in reference.iter_mut().zip(row(&operands.v, kv_idx)) {
                    *total += weight / sum * v;
                }
            }
            for (&found, reference) in o[at..][..dim].iter().zip(reference) {
                sums.add(found, reference);
            }
        }
    }
    Ok(sums.result())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_equal_values_is_right_and_nothing_else() {
        let case = Case {
            name: String::new(),
            batch: 2,
            heads: 2,
            kv_heads: 1,
            seq_q: 3,
            seq: 3,
            dim: 2,
            causal: false,
            lengths: Some(vec![3, 1]),
            backward: false,
        };
        let (q, k, v) = (vec![1.0; 24], vec![0.5; 12], vec![2.0; 12]);
        let operands = Operands { q, k, v, dout: Vec::new() };
        assert_eq!(case.operations(), 4.0 * 12.0 * 2.0 * 2.0);
        assert!(difference(&case, &operands, &[2.0; 24]).unwrap().largest < 1e-12);
        let mut wrong = [2.0; 24];
        wrong[23] = f32::NAN;
        assert!(!difference(&case, &operands, &wrong).unwrap().is_right());
        assert!(difference(&case, &operands, &[2.0; 3]).is_err());
    }
}
