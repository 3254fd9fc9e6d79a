//! `key_lengths`: the first keys of each sequence.

use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `key_lengths`: the first `key_lengths[b]` keys of each sequence (right padding).
    pub const KeyLengths: Self = Self::Leaf(Leaf::plain(&KeyLengths));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `key_lengths`, i32 `[batch]`: how many keys of each sequence are real.
    pub const KeyLengths: Self = Self::named("key_lengths");
}

impl AuxData {
    /// `key_lengths`, `[batch]`, each from 0 to `seq_len_kv`.
    #[must_use]
    pub fn key_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::KeyLengths, lengths)
    }
}

#[derive(Debug)]
pub(super) struct KeyLengths;

impl LeafSpec for KeyLengths {
    fn name(&self) -> &'static str {
        "key_lengths"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("key_lengths", "the first key_lengths[b] keys: integers [batch]")]
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let lengths = AuxSpec::new(AuxTensor::KeyLengths, AuxElement::I32, [AuxDim::batch(shape)]);
        vec![lengths.checked(|values| values.lengths("seq_len_kv", values.shape.seq_len_kv))]
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::KeyLengths)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.kv() < i64::from(cell.of_sequence(AuxTensor::KeyLengths))
    }

    fn shader(&self) -> Shader {
        shader!("leading_keys")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let data = AuxData::new().key_lengths([17]);
        vec![
            MaskSample::new(
                self,
                Mask::KeyLengths,
                "The first keys of each sequence: padding on the right.",
            )
            .data(data),
        ]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        AuxData::new().key_lengths(random.ints(shape.batch, shape.seq_len_kv))
    }
}
