//! `all`: every key.

use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `all`: every key.
    pub const All: Self = Self::Leaf(Leaf::plain(&All));
}

#[derive(Debug)]
pub(super) struct All;

impl LeafSpec for All {
    fn name(&self) -> &'static str {
        "all"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("all", "every key")]
    }

    fn tensors(&self, _leaf: &Leaf, _shape: &Shape) -> Vec<AuxSpec> {
        Vec::new()
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::NOWHERE
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        Vec::new()
    }

    fn keep(&self, _leaf: &Leaf, _cell: &Cell<'_>) -> bool {
        true
    }

    fn shader(&self) -> Shader {
        Shader::Everything
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        vec![MaskSample::new(self, Mask::All, "Every key.")]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
