//! `causal`: the query's own position and those before it (Vaswani et al. 2017, arXiv 1706.03762, §3.2.3).

use super::{
    Argument, Cell, Differs, Kind, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxSpec};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `causal`: the query's own position and those before it. Where queries and keys differ in number, the last query
    /// sees the last key: `kv_idx ≤ q_idx + seq_len_kv − seq_len_q` (FlashAttention, key-value caches).
    pub const fn causal() -> Self {
        Self::Leaf(Leaf::plain(&Causal))
    }

    /// `causal(upper_left)`: the first query sees the first key alone, `kv_idx ≤ q_idx` (PyTorch's `is_causal`, ONNX
    /// without a cache).
    pub const fn causal_upper_left() -> Self {
        Self::Leaf(Leaf::with(&Causal, [Value::Choice(UPPER_LEFT)]))
    }

    /// `causal(offset=N)`: `kv_idx ≤ q_idx + offset`.
    pub const fn causal_offset(offset: i32) -> Self {
        Self::Leaf(Leaf::with(&Causal, [Value::Count(offset as i64)]))
    }
}

/// Where the diagonal lies when queries and keys differ in number.
const ALIGNMENTS: &[&str] = &["lower_right", "upper_left"];
const UPPER_LEFT: usize = 1;

/// What is added to the query's index, and whether the sequence's diagonal is, too.
const fn offset(leaf: &Leaf) -> (i64, bool) {
    match leaf.values()[0] {
        Value::Count(offset) => (offset, false),
        Value::Choice(UPPER_LEFT) => (0, false),
        Value::Choice(_) | Value::Unbounded => (0, true),
    }
}

#[derive(Debug)]
pub(super) struct Causal;

impl LeafSpec for Causal {
    fn name(&self) -> &'static str {
        "causal"
    }

    fn arguments(&self) -> &'static [Argument] {
        &[Argument { name: "offset", kind: Kind::Choice { words: ALIGNMENTS, or_offset: true } }]
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[
            (
                "causal",
                "the query's own position and those before it; the last query is aligned with the last key",
            ),
            ("causal(upper_left)", "the same, with the first query aligned with the first key"),
            ("causal(offset=N)", "kv_idx <= q_idx + N"),
        ]
    }

    fn source(&self) -> &'static str {
        "Vaswani et al., [arXiv 1706.03762](https://arxiv.org/abs/1706.03762)"
    }

    fn tensors(&self, _leaf: &Leaf, _shape: &Shape) -> Vec<AuxSpec> {
        Vec::new()
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::NOWHERE
    }

    fn slots(&self, leaf: &Leaf) -> Vec<Slot> {
        let (offset, from_diagonal) = offset(leaf);
        // All bits, which the kernels join with the diagonal by `&`.
        let diagonal = if from_diagonal { -1 } else { 0 };
        vec![Slot::Number(offset), Slot::Number(diagonal)]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let (offset, from_diagonal) = offset(leaf);
        cell.kv() <= cell.q() + offset + if from_diagonal { cell.diagonal } else { 0 }
    }

    fn shader(&self) -> Shader {
        shader!("causal")
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        vec![
            MaskSample::new(
                self,
                Mask::causal(),
                "The query's own position and those before it.",
            ),
            MaskSample::new(
                self,
                Mask::causal(),
                "`causal` with more keys than queries: the last query stands at the last key, as with a cache.",
            )
            .variant("causal_cache")
            .with_cache(),
            MaskSample::new(
                self,
                Mask::causal_upper_left(),
                "The first query stands at the first key: PyTorch's `is_causal`.",
            )
            .variant("causal_upper_left")
            .with_cache(),
            MaskSample::new(
                self,
                Mask::causal_offset(3),
                "Keys up to so many after the query's index: `kv_idx <= q_idx + 3`.",
            )
            .variant("causal_offset"),
        ]
    }

    fn random_data(&self, _leaf: &Leaf, _shape: &Shape, _random: &mut Random<'_>) -> AuxData {
        AuxData::new()
    }
}
