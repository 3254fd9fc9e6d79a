//! What is compared: shapes and operands.

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
    pub(super) seq_q: usize,
    /// Of the keys, and of the queries where they are as many.
    pub(super) seq: usize,
    pub(super) dim: usize,
    pub(super) causal: bool,
    pub(super) lengths: Option<Vec<usize>>,
    /// Forward and backward in one call, whose result is dq, dk and dv.
    pub(super) backward: bool,
}

/// The operands of a case.
pub(crate) struct Operands {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// Empty for a forward pass.
    pub(super) dout: Vec<f32>,
}

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
