//! `not_self`: every key but the query's own position.

use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `not_self`: every key but the query's own position.
    pub const NotSelf: Self = Self::Leaf(Leaf::plain(&NotSelf));
}

#[derive(Debug)]
pub(super) struct NotSelf;

impl LeafSpec for NotSelf {
    fn name(&self) -> &'static str {
        "not_self"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("not_self", "every key except the query's own position")]
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

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.kv() != cell.own()
    }

    fn shader(&self) -> Shader {
        shader!("not_self")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        vec![MaskSample::new(self, Mask::NotSelf, "Every key but the own position.")]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
