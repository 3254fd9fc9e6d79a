//! `chunk(size)`: the keys of the own position's chunk of `size` positions (Llama 4, with `causal`).

use super::{
    Argument, Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `chunk(size)`: the keys of the own position's chunk of `size` positions (Llama 4, with `causal`).
    pub const fn chunk(size: u32) -> Self {
        Self::Leaf(Leaf::with(&Chunk, [Value::Count(size as i64)]))
    }
}

#[derive(Debug)]
pub(super) struct Chunk;

impl LeafSpec for Chunk {
    fn name(&self) -> &'static str {
        "chunk"
    }

    fn arguments(&self) -> &'static [Argument] {
        const { &[Argument::count("size", 1)] }
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("chunk(SIZE)", "the keys in the query's own chunk of SIZE positions (Llama 4)")]
    }

    fn source(&self) -> &'static str {
        "Llama 4, with `causal`"
    }

    fn tensors(&self, _leaf: &Leaf, _shape: &Shape) -> Vec<AuxSpec> {
        Vec::new()
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::NOWHERE
    }

    fn slots(&self, leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Number(leaf.count(0))]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let size = leaf.count(0);
        cell.kv().div_euclid(size) == cell.own().div_euclid(size)
    }

    fn shader(&self) -> Shader {
        shader!("chunk")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let sentence = "The keys of the own position's chunk of so many positions.";
        vec![MaskSample::new(self, Mask::chunk(6), sentence)]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
