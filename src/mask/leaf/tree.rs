//! `tree`: the keys before the last `seq_len_q`, the own position and its ancestors: speculative decoding (SpecInfer, arXiv
//! 2305.09781, §4).

use super::{Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, shader};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl Mask {
    /// `tree`: the keys before the last `seq_len_q`, the own position and its ancestors, by `tree_parents[b, q_idx]`
    /// (speculative decoding).
    pub const Tree: Self = Self::Leaf(Leaf::plain(&Tree));
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `tree_parents`, i32 `[batch, seq_len_q]`: an earlier query's index, or −1 for a root.
    pub const TreeParents: Self = Self::named("tree_parents");
}

impl AuxData {
    /// `tree_parents`, `[batch, seq_len_q]`: an earlier query's index, or −1 for a root.
    #[must_use]
    pub fn tree_parents(self, parents: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::TreeParents, parents)
    }
}

#[derive(Debug)]
pub(super) struct Tree;

impl LeafSpec for Tree {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "tree",
            "keys before the last seq_len_q, the query's own position and its ancestors:\n\
             integers tree_parents [batch, seq_len_q], -1 for a root (speculative decoding)",
        )]
    }

    fn source(&self) -> &'static str {
        "SpecInfer, [arXiv 2305.09781](https://arxiv.org/abs/2305.09781)"
    }

    fn tensors(&self, _leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let dims = [AuxDim::batch(shape), AuxDim::queries(shape)];
        let parents = AuxSpec::new(AuxTensor::TreeParents, AuxElement::I32, dims);
        // Parents come before their children, so every walk towards a root ends.
        vec![parents.checked(|values| {
            values.each(|at, parent| {
                let own = at % values.shape.seq_len_q;
                let fits = parent == -1 || usize::try_from(parent).is_ok_and(|parent| parent < own);
                (!fits).then(|| {
                    format!("-1 or a query before its own, {own}: else the tree has a cycle")
                })
            })
        })]
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        if shape.seq_len_kv >= shape.seq_len_q {
            return Ok(());
        }
        Err(Error::operand(
            "tree",
            "at least as many keys as queries",
            format!("{} keys, {} queries", shape.seq_len_kv, shape.seq_len_q),
        ))
    }

    fn differs(&self, _sizes: &Sizes<'_>) -> Differs {
        Differs::BY_BATCH
    }

    fn slots(&self, _leaf: &Leaf) -> Vec<Slot> {
        vec![Slot::Start(AuxTensor::TreeParents)]
    }

    fn keep(&self, _leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let token = cell.kv() - cell.diagonal;
        let parent = |&at: &i64| {
            let parent = cell.of_other_query(AuxTensor::TreeParents, at as usize);
            (parent >= 0).then_some(i64::from(parent))
        };
        token < 0 || std::iter::successors(Some(cell.q()), parent).any(|at| at == token)
    }

    fn shader(&self) -> Shader {
        shader!("tree")
    }

    fn tiles(&self) -> Tiles {
        Tiles::Bounds
    }

    fn samples(&self) -> Vec<MaskSample> {
        let data = AuxData::new().tree_parents([-1, 0, 0, 1, 1, 2, 3, 3, 5, 6]);
        let sentence = "The keys before the last `Tq`, and of these the own position and its ancestors (−1 is the parent \
                        of a root).";
        vec![MaskSample::new(self, Mask::Tree, sentence).with_cache().data(data)]
    }

    fn random_data(&self, _leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let Shape { batch, seq_len_q, .. } = *shape;
        let before = |at: usize| (-1, (at % seq_len_q) as i64 - 1);
        AuxData::new().tree_parents(random.ints_of(batch * seq_len_q, before))
    }
}
