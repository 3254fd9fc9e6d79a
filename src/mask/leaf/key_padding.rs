//! `key_padding`: the keys that are flagged.

use super::sample::LEN;
use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `key_padding`: the keys whose entry in `key_padding[b, kv_idx]` is not zero (padding anywhere).
    pub const KeyPadding: Self = Self::Leaf(Leaf::plain(&KeyPadding));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `key_padding`, `[batch, seq_len_kv]`: not zero where the key is kept.
    pub const KeyPadding: Self = Self::named("key_padding");
}

impl AuxData {
    /// `key_padding`, `[batch, seq_len_kv]`, true where the key is kept.
    #[must_use]
    pub fn key_padding(self, keep: impl IntoIterator<Item = bool>) -> Self {
        self.ints(AuxTensor::KeyPadding, keep.into_iter().map(i32::from))
    }
}

#[derive(Debug)]
pub(super) struct KeyPadding;

impl LeafSpec for KeyPadding {
    fn name(&self) -> &'static str {
        "key_padding"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "key_padding",
            "keys whose key_padding or attention_mask isn't 0: flags [batch, seq_len_kv]",
        )]
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let dims = [AuxDim::batch(shape), AuxDim::keys(shape)];
        vec![
            AuxSpec::new(AuxTensor::KeyPadding, AuxElement::Flag, dims)
                .also_named(&["attention_mask"]),
        ]
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::KeyPadding)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.of_key(AuxTensor::KeyPadding) != 0
    }

    fn shader(&self) -> Shader {
        shader!("key_padding")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        let flags = (0..LEN).map(|at| !(at < 3 || (14..17).contains(&at)));
        let data = AuxData::new().key_padding(flags);
        let sentence = "The keys that are flagged: padding anywhere.";
        vec![MaskSample::new(self, Mask::KeyPadding, sentence).data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        AuxData::new().key_padding(random.flags(shape.batch * shape.seq_len_kv))
    }
}
