//! What is compared: shapes, operands, and the right result.
//! Of a training step it's the gradients, in [`super::gradients`].

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One problem in f32.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    seq_q: usize,
    /// Of the keys, and of the queries where they are as many.
    pub(super) seq: usize,
    pub(super) dim: usize,
    causal: bool,
    lengths: Option<Vec<usize>>,
    /// Forward and backward in one call, whose result is dq, dk and dv.
    backward: bool,
}

/// The operands of a case.
pub(crate) struct Operands {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// Empty for a forward pass.
    pub(super) dout: Vec<f32>,
}

/// How far a result is from the reference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference {
    /// The largest one of an element.
    pub(crate) largest: f64,
    /// The norm of the difference over the norm of the reference.
    pub(crate) relative: f64,
}

/// How many rows of each head are checked, from the first to the last, where there are as many.
const CHECKED_ROWS: usize = 64;

pub(crate) fn all() -> Vec<Case> {
    let case =
        |[batch, heads, kv_heads, seq, dim]: [usize; 5], causal, lengths: Option<&[usize]>| {
            let what = match (causal, lengths) {
                (true, _) => " causal",
                (_, Some(_)) => " padded",
                _ => "",
            };
            let name = format!("B={batch} H={heads}/{kv_heads} T={seq} D={dim}{what}");
            let lengths = lengths.map(<[usize]>::to_vec);
            let (seq_q, backward) = (seq, false);
            Case { name, batch, heads, kv_heads, seq_q, seq, dim, causal, lengths, backward }
        };
    // One query, which sees all keys.
    let decode = |[batch, heads, kv_heads, seq, dim]: [usize; 5]| {
        let name = format!("decode B={batch} H={heads}/{kv_heads} Tk={seq} D={dim}");
        let (seq_q, causal, lengths, backward) = (1, false, None, false);
        Case { name, batch, heads, kv_heads, seq_q, seq, dim, causal, lengths, backward }
    };
    let training = |sizes| {
        let forward = case(sizes, true, None);
        Case { name: format!("{} forward and backward", forward.name), backward: true, ..forward }
    };
    vec![
        case([1, 8, 8, 512, 64], false, None),
        case([1, 8, 8, 512, 64], true, None),
        case([1, 8, 8, 1024, 64], true, None),
        case([2, 8, 8, 1024, 64], true, None),
        case([1, 8, 2, 1024, 128], true, None),
        case([1, 4, 4, 4096, 64], true, None),
        case([4, 8, 8, 512, 64], false, Some(&[512, 384, 256, 64])),
        decode([1, 32, 8, 4096, 128]),
        decode([8, 8, 8, 2048, 64]),
        training([1, 8, 8, 256, 64]),
        training([1, 8, 8, 512, 64]),
        training([1, 8, 8, 1024, 64]),
        training([1, 8, 2, 1024, 128]),
    ]
}

impl Case {
    /// Writes the operands, uniform in [-2, 2), to files that every peer reads.
    pub(crate) fn write(&self, folder: &Path) -> Result<Operands> {
        let len = self.batch * self.heads * self.seq_q * self.dim;
        let kv_len = self.batch * self.kv_heads * self.seq * self.dim;
        let operands = Operands {
            q: uniform(1, len),
            k: uniform(2, kv_len),
            v: uniform(3, kv_len),
            dout: if self.backward { uniform(4, len) } else { Vec::new() },
        };
        let tensors = [
            ("q.bin", &operands.q),
            ("k.bin", &operands.k),
            ("v.bin", &operands.v),
            ("dout.bin", &operands.dout),
        ];
        for (name, values) in tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        Ok(operands)
    }

    /// The command that makes a peer read them.
    pub(crate) fn command(&self, folder: &Path) -> Value {
        json!({
            "do": "prepare",
            "shape": [self.batch, self.heads, self.kv_heads, self.seq_q, self.seq, self.dim],
            "causal": self.causal,
            "lengths": self.lengths,
            "backward": self.backward,
            "folder": folder,
        })
    }

    /// The keys that a query keeps: the first so many.
    pub(super) fn kept(&self, b: usize, q_idx: usize) -> usize {
        match &self.lengths {
            Some(lengths) => lengths[b],
            None if self.causal => q_idx + 1,
            None => self.seq,
        }
    }

    /// Operations that the result needs.
    pub(crate) fn operations(&self) -> f64 {
        let cells: usize = (0..self.batch)
            .flat_map(|b| (0..self.seq_q).map(move |q_idx| (b, q_idx)))
            .map(|(b, q_idx)| self.kept(b, q_idx))
            .sum();
        // Two products forward, five backward.
        let products = if self.backward { 7.0 } else { 2.0 };
        2.0 * products * (cells * self.heads * self.dim) as f64
    }

    /// Compares some rows of every head with attention in f64, or the gradients of some heads.
    pub(crate) fn difference(&self, operands: &Operands, o: &[f32]) -> Result<Difference> {
        if self.backward {
            return super::gradients::difference(self, operands, o);
        }
        let (dim, seq_q, seq) = (self.dim, self.seq_q, self.seq);
        let expected = self.batch * self.heads * seq_q * dim;
        anyhow::ensure!(o.len() == expected, "it gave {} elements instead of {expected}", o.len());
        let scale = 1.0 / (dim as f64).sqrt();
        let mut sums = Differences::default();
        for (b, h) in (0..self.batch).flat_map(|b| (0..self.heads).map(move |h| (b, h))) {
            let h_kv = h / (self.heads / self.kv_heads);
            let kv = (b * self.kv_heads + h_kv) * seq * dim;
            let checked = CHECKED_ROWS.min(seq_q);
            let rows = (0..checked).map(|at| at * (seq_q - 1) / (checked - 1).max(1));
            for q_idx in rows {
                let at = ((b * self.heads + h) * seq_q + q_idx) * dim;
                let q = &operands.q[at..][..dim];
                let row = |tensor: &'_ [f32], kv_idx: usize| -> Vec<f64> {
                    tensor[kv + kv_idx * dim..][..dim].iter().map(|&x| f64::from(x)).collect()
                };
                let scores: Vec<f64> = (0..self.kept(b, q_idx))
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
}

/// Differences of elements, added up.
#[derive(Debug, Default)]
pub(super) struct Differences {
    largest: f64,
    difference_squares: f64,
    squares: f64,
}

impl Differences {
    pub(super) fn add(&mut self, found: f32, reference: f64) {
        let difference = f64::from(found) - reference;
        // A NaN, which no comparison finds, counts as infinitely wrong.
        let distance = if difference.is_nan() { f64::INFINITY } else { difference.abs() };
        self.largest = self.largest.max(distance);
        self.difference_squares += difference * difference;
        self.squares += reference * reference;
    }

    pub(super) fn result(&self) -> Difference {
        let relative = (self.difference_squares / self.squares).sqrt();
        Difference { largest: self.largest, relative }
    }
}

impl Difference {
    /// Whether the result is the right one, in f32 or with products in f16.
    pub(crate) fn is_right(&self) -> bool {
        self.relative < 2e-3 && self.largest < 2e-2
    }
}

/// The same numbers on every run.
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
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
        assert!(case.difference(&operands, &[2.0; 24]).unwrap().largest < 1e-12);
        let mut wrong = [2.0; 24];
        wrong[23] = f32::NAN;
        assert!(!case.difference(&operands, &wrong).unwrap().is_right());
        assert!(case.difference(&operands, &[2.0; 3]).is_err());
    }
}
