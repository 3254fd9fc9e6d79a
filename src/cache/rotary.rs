//! Rotary position embeddings: what is turned, and by how much.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::kernel::key::Pairing;
use crate::tensor::shape::MAX_HEAD_DIM;

/// A rotary position embedding (RoPE, arXiv 2104.09864): pair i of `dim` components of a query or key at a position is turned
/// by `position · frequencies[i]`. They are the first ones, unless [`Rotary::starting_at`] says otherwise.
///
/// ```
/// use wgpu_attention::cache::{Pairing, Rotary};
/// let llama = Rotary::new(128, 500_000.0, Pairing::Half);
/// assert_eq!(llama.frequencies()[0], 1.0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    frequencies: Vec<f64>,
    pairing: Pairing,
    first: usize,
}

impl Rotary {
    /// `frequencies[i] = base^(−2i / dim)` for the `dim / 2` pairs, as in the paper with a base of 10 000.
    pub fn new(dim: usize, base: f64, pairing: Pairing) -> Self {
        let frequency = |i: usize| base.powf(-2.0 * i as f64 / dim as f64);
        // More than any row has are refused by the plan.
        Self::with_frequencies((0..dim / 2).map(frequency).take(MAX_HEAD_DIM), pairing)
    }

    /// Given angles per position, in radians, one for each pair: for models that scale them.
    pub fn with_frequencies(frequencies: impl IntoIterator<Item = f64>, pairing: Pairing) -> Self {
        Self { frequencies: frequencies.into_iter().collect(), pairing, first: 0 }
    }

    /// The same for the components from `first` on: in MLA's rows they stand behind the latent ones.
    ///
    /// ```
    /// use wgpu_attention::cache::{Pairing, Rotary};
    /// // DeepSeek: 512 latent components, then 64 that are turned.
    /// let rotary = Rotary::new(64, 10_000.0, Pairing::Interleaved).starting_at(512);
    /// let turned = rotary.turn(&vec![1.0; 576], 3);
    /// assert!(turned[..512].iter().all(|&x| x == 1.0) && turned[512] != 1.0);
    /// ```
    #[must_use]
    pub fn starting_at(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// The angle per position of each pair, in radians.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// Which components are pairs.
    pub const fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// The row of a token at a position in f64: what the kernels are compared with. Components beside the pairs stay.
    pub fn turn(&self, row: &[f32], position: usize) -> Vec<f64> {
        let mut turned: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let pairs = self.frequencies.len();
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (first, second) = match self.pairing {
                Pairing::Half => (i, i + pairs),
                Pairing::Interleaved => (2 * i, 2 * i + 1),
            };
            let [first, second] = [first, second].map(|at| self.first.saturating_add(at));
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            if let (Some(&x), Some(&y)) = (row.get(first), row.get(second)) {
                let (x, y) = (f64::from(x), f64::from(y));
                turned[first] = x * cos - y * sin;
                turned[second] = x * sin + y * cos;
            }
        }
        turned
    }

    /// The uniform block of the kernel, for rows of `head_dim`.
    ///
    /// # Errors
    /// [`Error::Operand`] where there are more pairs than the row has, none, or an angle that isn't finite.
    pub(super) fn block(&self, head_dim: usize) -> Result<Block> {
        let pairs = self.frequencies.len();
        let left = head_dim.saturating_sub(self.first);
        if pairs == 0 || 2 * pairs > left {
            let from = match self.first {
                0 => String::new(),
                first => format!(" and they begin at component {first}"),
            };
            return Err(Error::operand(
                "rotary",
                format!("1 to {} pairs, as head_dim is {head_dim}{from}", left / 2),
                pairs,
            ));
        }
        let mut block = Block {
            steps: [0; MAX_HEAD_DIM],
            dim: 2 * pairs as u32,
            first: self.first as u32,
            padding: [0; 2],
        };
        for (i, &frequency) in self.frequencies.iter().enumerate() {
            if !frequency.is_finite() {
                return Err(Error::operand(
                    format!("rotary's frequency of pair {i}"),
                    "a finite number",
                    frequency,
                ));
            }
            // Turns in 64 bits behind the point; whole ones don't matter.
            let turns = (frequency / std::f64::consts::TAU).rem_euclid(1.0);
            let step = (turns * 2f64.powi(64)) as u64;
            block.steps[2 * i] = (step >> 32) as u32;
            block.steps[2 * i + 1] = step as u32;
        }
        Ok(block)
    }
}

/// shaders/cache/rotary.wgsl's `Rotary`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(super) struct Block {
    /// High and low word of each pair's step.
    steps: [u32; MAX_HEAD_DIM],
    dim: u32,
    first: u32,
    padding: [u32; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_equals_wgsl() {
        let text = include_str!("../../shaders/cache/rotary.wgsl").to_owned();
        let block = "\n@group(0) @binding(0) var<uniform> rotary: Rotary;\n";
        let module = naga::front::wgsl::parse_str(&(text + block)).unwrap();
        let (_, rotary) =
            module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Rotary")).unwrap();
        let naga::TypeInner::Struct { members, span } = &rotary.inner else {
            panic!("Rotary isn't a struct");
        };
        let offsets: Vec<_> = members.iter().map(|member| member.offset as usize).collect();
        use std::mem::offset_of;
        let expected = [offset_of!(Block, steps), offset_of!(Block, dim), offset_of!(Block, first)];
        assert_eq!(offsets, expected);
        assert_eq!(*span as usize, size_of::<Block>());
    }
}
