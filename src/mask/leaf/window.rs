//! `window(left, right)`: the keys around the query's own position, both ends inclusive (Longformer, arXiv 2004.05150,
//! §3.1).

use super::{
    Argument, Cell, Differs, Kind, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `window(left, right)`: that many keys before and after the query's own position, both ends inclusive, `None` for
    /// unbounded. `window(W − 1, 0)` is Hugging Face's `sliding_window = W`.
    pub fn window(left: impl Into<Option<u32>>, right: impl Into<Option<u32>>) -> Self {
        let [left, right] = [left.into(), right.into()].map(Value::bound);
        Self::Leaf(Leaf::with(&Window, [left, right]))
    }
}

#[derive(Debug)]
pub(super) struct Window;

impl LeafSpec for Window {
    fn name(&self) -> &'static str {
        "window"
    }

    fn arguments(&self) -> &'static [Argument] {
        &[
            Argument { name: "left", kind: Kind::Bound { least: 0 } },
            Argument { name: "right", kind: Kind::Bound { least: 0 } },
        ]
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "window(LEFT,RIGHT)",
            "LEFT keys before and RIGHT keys after the query's own position; `inf` is unbounded",
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
        vec![
            Slot::Number(leaf.bound(0).map_or(i64::MIN, |left| -left)),
            Slot::Number(leaf.bound(1).unwrap_or(i64::MAX)),
        ]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let distance = cell.kv() - cell.own();
        leaf.bound(0).is_none_or(|left| distance >= -left)
            && leaf.bound(1).is_none_or(|right| distance <= right)
    }

    fn shader(&self) -> Shader {
        shader!("window")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let sentence = "So many keys before and after the own position; `inf` is unbounded.";
        vec![MaskSample::new(self, Mask::window(4, 1), sentence)]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
