//! `global(tokens)`: the first keys for every query, every key for the first queries (Longformer, arXiv 2004.05150;
//! BigBird, arXiv 2007.14062).

use super::{
    Argument, Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `global(tokens)`: the first keys for every query, and every key for the first queries (Longformer, BigBird).
    pub const fn global(tokens: u32) -> Self {
        Self::Leaf(Leaf::with(&Global, [Value::Count(tokens as i64)]))
    }
}

#[derive(Debug)]
pub(super) struct Global;

impl LeafSpec for Global {
    fn name(&self) -> &'static str {
        "global"
    }

    fn arguments(&self) -> &'static [Argument] {
        const { &[Argument::count("tokens", 0)] }
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "global(TOKENS)",
            "the first TOKENS keys for every query, every key for the first TOKENS queries (Longformer)",
        )]
    }

    fn source(&self) -> &'static str {
        "Longformer, [arXiv 2004.05150](https://arxiv.org/abs/2004.05150)"
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
        cell.kv() < leaf.count(0) || cell.own() < leaf.count(0)
    }

    fn shader(&self) -> Shader {
        shader!("global")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let sentence = "The first keys for every query, and every key for the first queries.";
        vec![MaskSample::new(self, Mask::global(2), sentence)]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
