//! `block_bidirectional`: the keys of the query's own block, as of an image in a text (Gemma 3, arXiv 2503.19786).

use super::sample::runs;
use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `block_bidirectional`: the keys of the query's own block, `block_ids_q[b, q_idx] == block_ids_kv[b, kv_idx]`,
    /// if that isn't negative. `causal | block_bidirectional` lets the tokens of an image see each other.
    pub const BlockBidirectional: Self = Self::Leaf(Leaf::plain(&BlockBidirectional));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `block_ids_q`, i32 `[batch, seq_len_q]`; negative in no block.
    pub const BlockIdsQ: Self = Self::named("block_ids_q");
    /// `block_ids_kv`, i32 `[batch, seq_len_kv]`; negative in no block.
    pub const BlockIdsKv: Self = Self::named("block_ids_kv");
}

impl AuxData {
    /// `block_ids`, `[batch, seq_len]`, of queries and keys alike; negative in no block.
    #[must_use]
    pub fn block_ids(self, ids: impl IntoIterator<Item = i32>) -> Self {
        let ids: Vec<i32> = ids.into_iter().collect();
        self.block_ids_q_kv(ids.clone(), ids)
    }

    /// `block_ids_q`, `[batch, seq_len_q]`, and `block_ids_kv`, `[batch, seq_len_kv]`.
    #[must_use]
    pub fn block_ids_q_kv(
        self,
        q: impl IntoIterator<Item = i32>,
        kv: impl IntoIterator<Item = i32>,
    ) -> Self {
        self.ints(AuxTensor::BlockIdsQ, q).ints(AuxTensor::BlockIdsKv, kv)
    }
}

#[derive(Debug)]
pub(super) struct BlockBidirectional;

impl LeafSpec for BlockBidirectional {
    fn name(&self) -> &'static str {
        "block_bidirectional"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "block_bidirectional",
            "keys of the query's own block: integers block_ids [batch, seq_len], or block_ids_q and\n\
             block_ids_kv; negative ids are in no block",
        )]
    }

    fn source(&self) -> &'static str {
        "Gemma 3, [arXiv 2503.19786](https://arxiv.org/abs/2503.19786)"
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let ids = |input, of: AuxDim| {
            AuxSpec::new(input, AuxElement::I32, [AuxDim::batch(shape), of])
                .also_named(&["block_ids"])
        };
        vec![
            ids(AuxTensor::BlockIdsQ, AuxDim::queries(shape)),
            ids(AuxTensor::BlockIdsKv, AuxDim::keys(shape)),
        ]
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::BlockIdsQ), Slot::Start(AuxTensor::BlockIdsKv)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let block = cell.of_query(AuxTensor::BlockIdsQ);
        block >= 0 && block == cell.of_key(AuxTensor::BlockIdsKv)
    }

    fn shader(&self) -> Shader {
        shader!("block_bidirectional")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        // Two images, of 6 and of 5 tokens, in a text.
        let ids = runs(&[4, 6, 5, 5, 4]).map(|id| if id % 2 == 1 { id } else { -1 });
        let sentence = "The keys of the query's own block, if it lies in one (a negative id lies in none): here with \
                        `causal`, so that an image's tokens see each other.";
        let mask = Mask::BlockBidirectional | Mask::causal();
        vec![MaskSample::new(self, mask, sentence).data(AuxData::new().block_ids(ids))]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let q = random.runs(shape.batch, shape.seq_len_q, -1);
        AuxData::new().block_ids_q_kv(q, random.runs(shape.batch, shape.seq_len_kv, -1))
    }
}
