//! `strided(step)`: every `step`th key (Sparse Transformer, arXiv 1904.10509, §4.3). Its WGSL is `dilated`'s.

use super::{
    Argument, Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `strided(step)`: every `step`th key, counted from the own position (Sparse Transformer, arXiv 1904.10509, §4.3).
    /// `step` is at least 1.
    pub const fn strided(step: u32) -> Self {
        Self::Leaf(Leaf::with(&Strided, [Value::Count(step as i64)]))
    }
}

#[derive(Debug)]
pub(super) struct Strided;

impl LeafSpec for Strided {
    fn name(&self) -> &'static str {
        "strided"
    }

    fn arguments(&self) -> &'static [Argument] {
        const { &[Argument::count("step", 1)] }
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("strided(STEP)", "every STEPth key, counted from the query's own position")]
    }

    fn source(&self) -> &'static str {
        "Sparse Transformer, [arXiv 1904.10509](https://arxiv.org/abs/1904.10509)"
    }

    fn tensors(&self, _leaf: &Leaf, _shape: &Shape) -> Vec<AuxSpec> {
        Vec::new()
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::NOWHERE
    }

    fn slots(&self, leaf: &Leaf) -> Vec<Slot> {
        // As far as any key is.
        vec![Slot::Number(i64::MAX), Slot::Number(leaf.count(0))]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        (cell.kv() - cell.own()) % leaf.count(0) == 0
    }

    fn shader(&self) -> Shader {
        shader!("dilated")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let sentence = "Every so many-th key, counted from the own position.";
        vec![MaskSample::new(self, Mask::strided(4), sentence)]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
