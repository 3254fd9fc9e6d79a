//! `prefix`: the first keys, for all queries (T5, arXiv 1910.10683, §3.2.1).

use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `prefix`: the first `prefix_lengths[b]` keys, for all queries. `prefix | causal` is a prefix-LM.
    pub const Prefix: Self = Self::Leaf(Leaf::plain(&Prefix));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `prefix_lengths`, i32 `[batch]`: how many keys every query of the sequence sees.
    pub const PrefixLengths: Self = Self::named("prefix_lengths");
}

impl AuxData {
    /// `prefix_lengths`, `[batch]`, each from 0 to `seq_len_kv`.
    #[must_use]
    pub fn prefix_lengths(self, lengths: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::PrefixLengths, lengths)
    }
}

#[derive(Debug)]
pub(super) struct Prefix;

impl LeafSpec for Prefix {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("prefix", "the first prefix_lengths[b] keys: integers [batch]")]
    }

    fn source(&self) -> &'static str {
        "T5, [arXiv 1910.10683](https://arxiv.org/abs/1910.10683)"
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let lengths =
            AuxSpec::new(AuxTensor::PrefixLengths, AuxElement::I32, [AuxDim::batch(shape)]);
        vec![lengths.checked(|values| values.lengths("seq_len_kv", values.shape.seq_len_kv))]
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::PrefixLengths)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.kv() < i64::from(cell.of_sequence(AuxTensor::PrefixLengths))
    }

    fn shader(&self) -> Shader {
        shader!("leading_keys")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        let data = AuxData::new().prefix_lengths([8]);
        vec![MaskSample::new(self, Mask::Prefix, "The first keys, for every query.").data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        AuxData::new().prefix_lengths(random.ints(shape.batch, shape.seq_len_kv))
    }
}
