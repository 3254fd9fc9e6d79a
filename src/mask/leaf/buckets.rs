//! `buckets`: the keys that share a bucket with the own position in some round of hashing (Reformer, arXiv 2001.04451,
//! §2).

use super::sample::LEN;
use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `buckets`: the keys whose bucket is the own position's in some round of hashing (Reformer's LSH attention).
    pub const Buckets: Self = Self::Leaf(Leaf::plain(&Buckets));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `bucket_ids`, i32 `[batch, num_heads|1, rounds, seq_len_kv]`.
    pub const BucketIds: Self = Self::named("bucket_ids");
}

impl AuxData {
    /// `bucket_ids`, of sizes `[batch, num_heads|1, rounds, seq_len_kv]`.
    #[must_use]
    pub fn bucket_ids(self, dims: [usize; 4], ids: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::BucketIds, ids).sized(AuxTensor::BucketIds, dims)
    }
}

#[derive(Debug)]
pub(super) struct Buckets;

impl LeafSpec for Buckets {
    fn name(&self) -> &'static str {
        "buckets"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "buckets",
            "keys that share a bucket with the query's own position in some round:\n\
             integers bucket_ids [batch, heads or 1, rounds, seq_len_kv] (Reformer's LSH)",
        )]
    }

    fn source(&self) -> &'static str {
        "Reformer, [arXiv 2001.04451](https://arxiv.org/abs/2001.04451)"
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let dims = [
            AuxDim::batch(shape),
            AuxDim::heads_or_1(shape),
            AuxDim::any("rounds"),
            AuxDim::keys(shape),
        ];
        vec![AuxSpec::new(AuxTensor::BucketIds, AuxElement::I32, dims)]
    }

    fn differs(&self, sizes: &Sizes<'_>) -> Differs {
        Differs { batch: true, heads: sizes.size(AuxTensor::BucketIds, 1) != 1 }
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![
            Slot::Start(AuxTensor::BucketIds),
            Slot::Stride(AuxTensor::BucketIds, 0),
            Slot::Stride(AuxTensor::BucketIds, 1),
            Slot::Size(AuxTensor::BucketIds, 2),
        ]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let bucket = |round, at| cell.word(AuxTensor::BucketIds, [cell.b, cell.h, round, at]);
        let rounds = cell.sizes(AuxTensor::BucketIds).get(2).copied().unwrap_or_default();
        // An own position before the first key has no bucket.
        usize::try_from(cell.own()).is_ok_and(|own| {
            (0..rounds).any(|round| bucket(round, own) == bucket(round, cell.kv_idx))
        })
    }

    fn shader(&self) -> Shader {
        shader!("buckets")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        let ids = (0..2 * LEN as i32).map(|at| at * at / 3 % 6);
        let data = AuxData::new().bucket_ids([1, 1, 2, LEN], ids);
        let sentence =
            "The keys that share a bucket with the own position in some round of hashing.";
        vec![MaskSample::new(self, Mask::Buckets, sentence).data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let (heads, rounds) = (random.one_of([shape.num_heads, 1]), random.one_of([1, 2, 3]));
        let dims = [shape.batch, heads, rounds, shape.seq_len_kv];
        AuxData::new().bucket_ids(dims, random.ints(dims.iter().product(), 3))
    }
}
