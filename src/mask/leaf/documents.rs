//! `documents`: the keys of the query's own document, of several packed into one sequence (Krell et al. 2021, arXiv
//! 2107.02027, §3.2.2).

use super::sample::runs;
use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `documents`: the keys of the query's own document, `document_ids_q[b, q_idx] == document_ids_kv[b, kv_idx]`.
    pub const Documents: Self = Self::Leaf(Leaf::plain(&Documents));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `document_ids_q`, i32 `[batch, seq_len_q]`.
    pub const DocumentIdsQ: Self = Self::named("document_ids_q");
    /// `document_ids_kv`, i32 `[batch, seq_len_kv]`.
    pub const DocumentIdsKv: Self = Self::named("document_ids_kv");
}

impl AuxData {
    /// `document_ids`, `[batch, seq_len]`, of queries and keys alike.
    #[must_use]
    pub fn document_ids(self, ids: impl IntoIterator<Item = i32>) -> Self {
        let ids: Vec<i32> = ids.into_iter().collect();
        self.document_ids_q_kv(ids.clone(), ids)
    }

    /// `document_ids_q`, `[batch, seq_len_q]`, and `document_ids_kv`, `[batch, seq_len_kv]`.
    #[must_use]
    pub fn document_ids_q_kv(
        self,
        q: impl IntoIterator<Item = i32>,
        kv: impl IntoIterator<Item = i32>,
    ) -> Self {
        self.ints(AuxTensor::DocumentIdsQ, q).ints(AuxTensor::DocumentIdsKv, kv)
    }
}

#[derive(Debug)]
pub(super) struct Documents;

impl LeafSpec for Documents {
    fn name(&self) -> &'static str {
        "documents"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "documents",
            "keys of the query's own document: integers document_ids [batch, seq_len],\n\
             or document_ids_q and document_ids_kv",
        )]
    }

    fn source(&self) -> &'static str {
        "Krell et al., [arXiv 2107.02027](https://arxiv.org/abs/2107.02027)"
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let ids = |input, of: AuxDim| {
            AuxSpec::new(input, AuxElement::I32, [AuxDim::batch(shape), of])
                .also_named(&["document_ids"])
        };
        vec![
            ids(AuxTensor::DocumentIdsQ, AuxDim::queries(shape)),
            ids(AuxTensor::DocumentIdsKv, AuxDim::keys(shape)),
        ]
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::DocumentIdsQ), Slot::Start(AuxTensor::DocumentIdsKv)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        cell.of_query(AuxTensor::DocumentIdsQ) == cell.of_key(AuxTensor::DocumentIdsKv)
    }

    fn shader(&self) -> Shader {
        shader!("documents")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        let data = AuxData::new().document_ids(runs(&[7, 3, 9, 5]));
        let sentence = "The keys of the query's own document.";
        vec![MaskSample::new(self, Mask::Documents, sentence).data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let q = random.runs(shape.batch, shape.seq_len_q, 0);
        AuxData::new().document_ids_q_kv(q, random.runs(shape.batch, shape.seq_len_kv, 0))
    }
}
