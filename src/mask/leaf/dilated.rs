//! `dilated(window, step)`: every `step`th key on either side (Longformer, arXiv 2004.05150, §3.1).

use super::{
    Argument, Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `dilated(window, step)`: every `step`th key, up to `window` of them on either side of the own position
    /// (Longformer, arXiv 2004.05150, §3.1). `step` is at least 1.
    pub const fn dilated(window: u32, step: u32) -> Self {
        Self::Leaf(Leaf::with(&Dilated, [Value::Count(window as i64), Value::Count(step as i64)]))
    }
}

#[derive(Debug)]
pub(super) struct Dilated;

impl LeafSpec for Dilated {
    fn name(&self) -> &'static str {
        "dilated"
    }

    fn arguments(&self) -> &'static [Argument] {
        const { &[Argument::count("window", 0), Argument::count("step", 1)] }
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("dilated(WINDOW,STEP)", "every STEPth key, up to WINDOW of them on each side")]
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
        let (window, step) = (leaf.count(0), leaf.count(1));
        vec![Slot::Number(window.saturating_mul(step)), Slot::Number(step)]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let (window, step) = (leaf.count(0), leaf.count(1));
        let distance = cell.kv() - cell.own();
        distance % step == 0 && distance.abs() <= window.saturating_mul(step)
    }

    fn shader(&self) -> Shader {
        shader!("dilated")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let sentence = "Every so many-th key, up to so many of them on either side.";
        vec![MaskSample::new(self, Mask::dilated(3, 2), sentence)]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
