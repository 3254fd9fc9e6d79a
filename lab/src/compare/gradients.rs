//! The right gradients, in f64.

use anyhow::{Result, ensure};

use super::case::{Case, Operands};
use super::difference::{Difference, Differences};

/// Compares dq, dk and dv, one after the other in `found`, with gradients in f64: all of them of the first kv head of the
/// first sequence and of the last one of the last, with the query heads that read them.
pub(super) fn difference(case: &Case, operands: &Operands, found: &[f32]) -> Result<Difference> {
    let (seq, dim) = (case.seq, case.dim);
    let [q_len, kv_len] = [case.heads, case.kv_heads].map(|heads| case.batch * heads * seq * dim);
    let expected = q_len + 2 * kv_len;
    ensure!(found.len() == expected, "it gave {} elements instead of {expected}", found.len());
    let (dq, rest) = found.split_at(q_len);
    let (dk, dv) = rest.split_at(kv_len);
    let mut sums = Differences::default();
    let group = case.heads / case.kv_heads;
    for (b, h_kv) in [(0, 0), (case.batch - 1, case.kv_heads - 1)] {
        let kv = (b * case.kv_heads + h_kv) * seq * dim..(b * case.kv_heads + h_kv + 1) * seq * dim;
        let [k, v] = [&operands.k, &operands.v].map(|tensor| wide(&tensor[kv.clone()]));
        let (mut dk_sum, mut dv_sum) = (vec![0.0; seq * dim], vec![0.0; seq * dim]);
        for h in h_kv * group..(h_kv + 1) * group {
            let own = (b * case.heads + h) * seq * dim..(b * case.heads + h + 1) * seq * dim;
            let [q, dout] = [&operands.q, &operands.dout].map(|tensor| wide(&tensor[own.clone()]));
            for q_idx in 0..seq {
                let row = q_idx * dim..(q_idx + 1) * dim;
                let kept = case.kept(b, q_idx);
                let reference = add_row(
                    [&q[row.clone()], &dout[row.clone()], &k[..kept * dim], &v[..kept * dim]],
                    [&mut dk_sum, &mut dv_sum],
                );
                let found = &dq[own.start + row.start..own.start + row.end];
                found.iter().zip(reference).for_each(|(&x, y)| sums.add(x, y));
            }
        }
        for (found, reference) in [(&dk[kv.clone()], dk_sum), (&dv[kv], dv_sum)] {
            found.iter().zip(reference).for_each(|(&x, y)| sums.add(x, y));
        }
    }
    Ok(sums.result())
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// A row's dq; what it adds to dk and dv is added there.
fn add_row([q, dout, k, v]: [&[f64]; 4], [dk, dv]: [&mut [f64]; 2]) -> Vec<f64> {
    let dim = q.len();
    let scale = 1.0 / (dim as f64).sqrt();
    let scores: Vec<f64> = k.chunks(dim).map(|k| dot(q, k) * scale).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let dp: Vec<f64> = v.chunks(dim).map(|v| dot(dout, v)).collect();
    // dout . o
    let delta = dot(&weights, &dp) / sum;
    let mut dq = vec![0.0; dim];
    for (kv_idx, (weight, dp)) in weights.iter().zip(dp).enumerate() {
        let p = weight / sum;
        let ds = p * (dp - delta) * scale;
        let key = kv_idx * dim..(kv_idx + 1) * dim;
        dq.iter_mut().zip(&k[key.clone()]).for_each(|(dq, k)| *dq += ds * k);
        dk[key.clone()].iter_mut().zip(q).for_each(|(dk, q)| *dk += ds * q);
        dv[key].iter_mut().zip(dout).for_each(|(dv, dout)| *dv += p * dout);
    }
    dq
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys with equal scores, values 1 and 3 apart in one component: by hand.
    #[test]
    fn a_row_by_hand() {
        let (mut dk, mut dv) = ([0.0; 2], [0.0; 2]);
        // softmax(q k) v with q = 0: p = 1/2 each, o = 2, dp = v, ds = p (dp - 2)
        let dq = add_row([&[0.0], &[1.0], &[1.0, -1.0], &[1.0, 3.0]], [&mut dk, &mut dv]);
        assert_eq!(dq, [-1.0]);
        assert_eq!(dk, [0.0, 0.0]);
        assert_eq!(dv, [0.5, 0.5]);
    }
}
