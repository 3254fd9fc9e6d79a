//! `dense`: the cells whose bit is set.

use super::sample::LEN;
use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `dense`: the keys whose bit is set in a tensor broadcastable to `[batch, num_heads, seq_len_q, seq_len_kv]`.
    pub const Dense: Self = Self::Leaf(Leaf::plain(&Dense));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `dense`, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`: one bit per cell, set where it is kept.
    ///
    /// On the device its words are u32 `[batch|1, num_heads|1, seq_len_q|1, ceil(seq_len_kv / 32)]`; bit `kv_idx % 32`
    /// (from the least significant) of word `kv_idx / 32` is set where the key is kept.
    pub const Dense: Self = Self::named("dense");
}

impl AuxData {
    /// `dense`, of sizes `dims` that broadcast to `[batch, num_heads, seq_len_q, seq_len_kv]`, true where the key is kept.
    #[must_use]
    pub fn dense(self, dims: [usize; 4], keep: impl IntoIterator<Item = bool>) -> Self {
        self.bits(AuxTensor::Dense, keep).sized(AuxTensor::Dense, dims)
    }
}

#[derive(Debug)]
pub(super) struct Dense;

impl LeafSpec for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "dense",
            "cells whose dense, attn_mask or attention_mask isn't 0: flags that broadcast to\n\
             [batch, heads, seq_len_q, seq_len_kv]",
        )]
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let dims = [
            AuxDim::batch_or_1(shape),
            AuxDim::heads_or_1(shape),
            AuxDim::queries_or_1(shape),
            AuxDim::new("seq_len_kv or 1", "Tk or 1", [shape.seq_len_kv, 1]),
        ];
        let dense = AuxSpec::new(AuxTensor::Dense, AuxElement::Bit, dims).broadcasting();
        vec![dense.also_named(&["attn_mask", "attention_mask"])]
    }

    fn differs(&self, sizes: &Sizes<'_>) -> Differs {
        Differs {
            batch: sizes.size(AuxTensor::Dense, 0) != 1,
            heads: sizes.size(AuxTensor::Dense, 1) != 1,
        }
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        let strides = (0..3).map(|dim| Slot::Stride(AuxTensor::Dense, dim));
        [Slot::Start(AuxTensor::Dense)].into_iter().chain(strides).collect()
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.word(AuxTensor::Dense, [cell.b, cell.h, cell.q_idx, cell.kv_idx]) != 0
    }

    fn shader(&self) -> Shader {
        shader!("dense")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Map
    }

    fn samples(&self) -> Vec<MaskSample> {
        let bit = |cell: usize| (cell / LEN / 4 * 5 + cell % LEN / 4 * 3) % 4 != 1;
        let data = AuxData::new().dense([1, 1, LEN, LEN], (0..LEN * LEN).map(bit));
        vec![MaskSample::new(self, Mask::Dense, "The cells whose bit is set.").data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let dims = [
            random.one_of([shape.batch, 1]),
            random.one_of([shape.num_heads, 1]),
            random.one_of([shape.seq_len_q, 1]),
            shape.seq_len_kv,
        ];
        AuxData::new().dense(dims, random.flags(dims.iter().product()))
    }
}
