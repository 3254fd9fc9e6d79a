//! `token_padding`: the keys whose token isn't the pad id.

use super::sample::LEN;
use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `token_padding`: the keys whose `token_ids[b, kv_idx]` isn't `pad_id`.
    pub const TokenPadding: Self = Self::Leaf(Leaf::plain(&TokenPadding));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `token_ids`, i32 `[batch, seq_len_kv]`.
    pub const TokenIds: Self = Self::named("token_ids");
    /// `pad_id`, i32 `[1]`: the token id that stands for padding.
    pub const PadId: Self = Self::named("pad_id");
}

impl AuxData {
    /// `token_ids`, `[batch, seq_len_kv]`, and the id that stands for padding.
    #[must_use]
    pub fn token_ids(self, ids: impl IntoIterator<Item = i32>, pad_id: i32) -> Self {
        self.ints(AuxTensor::TokenIds, ids).ints(AuxTensor::PadId, [pad_id])
    }
}

#[derive(Debug)]
pub(super) struct TokenPadding;

impl LeafSpec for TokenPadding {
    fn name(&self) -> &'static str {
        "token_padding"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[("token_padding", "keys whose token_ids aren't the pad id: integers [batch, seq_len_kv]")]
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let ids = [AuxDim::batch(shape), AuxDim::keys(shape)];
        vec![
            AuxSpec::new(AuxTensor::TokenIds, AuxElement::I32, ids),
            AuxSpec::new(AuxTensor::PadId, AuxElement::I32, [AuxDim::new("1", "1", [1])]),
        ]
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::TokenIds), Slot::Start(AuxTensor::PadId)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.of_key(AuxTensor::TokenIds) != cell.single(AuxTensor::PadId)
    }

    fn shader(&self) -> Shader {
        shader!("token_padding")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        let ids = (0..LEN as i32).map(|at| if at < 20 { at + 5 } else { 0 });
        let data = AuxData::new().token_ids(ids, 0);
        let sentence = "The keys whose token isn't the pad id.";
        vec![MaskSample::new(self, Mask::TokenPadding, sentence).data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let ids = random.ints(shape.batch * shape.seq_len_kv, 3);
        AuxData::new().token_ids(ids, random.element(0, 3))
    }
}
