//! `block_sparse(block)`: the blocks of keys that each block of queries lists (Native Sparse Attention, arXiv 2502.11089,
//! §3.3.2; MoBA, arXiv 2502.13189).

use super::{
    Argument, Cell, Differs, Leaf, LeafSpec, MaskSample, Random, Shader, Sizes, Tiles, Value,
    shader,
};
use crate::auxiliary::{AuxData, AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::mask::Mask;
use crate::mask::slots::Slot;
use crate::tensor::shape::Shape;

impl Mask {
    /// `block_sparse(block)`: of blocks of `block` keys, those that the query's block of `block` queries lists in
    /// `block_indices` (Native Sparse Attention, MoBA). Queries and keys are counted from the sequence's first ones.
    /// `block` is at least 1.
    ///
    /// ```
    /// use wgpu_attention::{Mask, AuxData, Shape};
    /// use wgpu_attention::mask::Evaluator;
    /// let shape = Shape::new(1, 1, 128, 64);
    /// // Two blocks of 64 queries: the first lists block 0, the second block 1 and no other.
    /// let data = AuxData::new().block_indices([1, 1, 2, 2], [0, -1, 1, -1]);
    /// let mask = Mask::causal() & Mask::block_sparse(64);
    /// let mask = Evaluator::new(&mask, &data, &shape)?;
    /// assert!(mask.keep(0, 0, 64, 64) && !mask.keep(0, 0, 64, 63));
    /// # Ok::<(), wgpu_attention::Error>(())
    /// ```
    pub const fn block_sparse(block: u32) -> Self {
        Self::Leaf(Leaf::with(&BlockSparse, [Value::Count(block as i64)]))
    }
}

#[expect(non_upper_case_globals, reason = "named as the types that masks are made of")]
impl AuxTensor {
    /// `block_indices`, i32 `[batch, num_heads|num_kv_heads|1, blocks of queries, blocks of a list]`: blocks of keys, or −1
    /// for none.
    pub const BlockIndices: Self = Self::named("block_indices");
}

impl AuxData {
    /// `block_indices`, of sizes `[batch, num_heads|num_kv_heads|1, blocks of queries, blocks of a list]`: blocks of keys,
    /// or −1 for none.
    #[must_use]
    pub fn block_indices(self, dims: [usize; 4], blocks: impl IntoIterator<Item = i32>) -> Self {
        self.ints(AuxTensor::BlockIndices, blocks).sized(AuxTensor::BlockIndices, dims)
    }
}

/// Queries and keys in a block.
fn block(leaf: &Leaf) -> usize {
    usize::try_from(leaf.count(0)).unwrap_or(usize::MAX).max(1)
}

#[derive(Debug)]
pub(super) struct BlockSparse;

impl LeafSpec for BlockSparse {
    fn name(&self) -> &'static str {
        "block_sparse"
    }

    fn arguments(&self) -> &'static [Argument] {
        const { &[Argument::count("block", 1)] }
    }

    fn help(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "block_sparse(BLOCK)",
            "of blocks of BLOCK keys, those that the query's block of BLOCK queries lists:\n\
             integers block_indices [batch, heads or kv heads or 1, blocks of queries, blocks of a list],\n\
             -1 for none (Native Sparse Attention, MoBA)",
        )]
    }

    fn source(&self) -> &'static str {
        "Native Sparse Attention, [arXiv 2502.11089](https://arxiv.org/abs/2502.11089)"
    }

    fn tensors(&self, leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec> {
        let block = block(leaf);
        let heads = [shape.num_heads, shape.num_kv_heads, 1];
        let dims = [
            AuxDim::batch(shape),
            AuxDim::new("num_heads, num_kv_heads or 1", "H, Hkv or 1", heads),
            AuxDim::new("blocks of queries", "Tq/block", [shape.seq_len_q.div_ceil(block)]),
            AuxDim::any("blocks of a list"),
        ];
        let blocks = shape.seq_len_kv.div_ceil(block);
        let indices = AuxSpec::new(AuxTensor::BlockIndices, AuxElement::I32, dims);
        vec![indices.checked(move |values| {
            values.each(|_, listed| {
                let fits =
                    listed == -1 || usize::try_from(listed).is_ok_and(|listed| listed < blocks);
                (!fits).then(|| format!("-1 or a block below {blocks}"))
            })
        })]
    }

    fn differs(&self, sizes: &Sizes<'_>) -> Differs {
        Differs { batch: true, heads: sizes.size(AuxTensor::BlockIndices, 1) != 1 }
    }

    fn slots(&self, leaf: &Leaf) -> Vec<Slot> {
        vec![
            Slot::Start(AuxTensor::BlockIndices),
            Slot::Size(AuxTensor::BlockIndices, 1),
            Slot::Size(AuxTensor::BlockIndices, 2),
            Slot::Size(AuxTensor::BlockIndices, 3),
            Slot::Number(leaf.count(0)),
            Slot::BlockBits(AuxTensor::BlockIndices, block(leaf)),
            Slot::BlockBitsWords(block(leaf)),
        ]
    }

    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool {
        let &[_, heads, _, count] = cell.sizes(AuxTensor::BlockIndices) else {
            return false;
        };
        let (block, head) = (block(leaf), cell.h * heads / cell.shape.num_heads);
        let listed =
            |at| cell.word(AuxTensor::BlockIndices, [cell.b, head, cell.q_idx / block, at]);
        let own = (cell.kv_idx / block) as u32;
        (0..count).any(|at| listed(at) == own)
    }

    fn shader(&self) -> Shader {
        shader!("block_sparse")
    }

    fn jumps(&self) -> bool {
        true
    }

    fn tiles(&self) -> Tiles {
        Tiles::ClosedForm
    }

    fn samples(&self) -> Vec<MaskSample> {
        // Each block of 4 queries lists its own block of keys, the first, and one in between.
        let lists = (0..6).flat_map(|own| [0, own, own * own / 7]);
        let data = AuxData::new().block_indices([1, 1, 6, 3], lists);
        let sentence =
            "Of blocks of so many keys, those that the query's block lists (−1 lists none).";
        vec![MaskSample::new(self, Mask::block_sparse(4), sentence).data(data)]
    }

    fn random_data(&self, leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData {
        let block = block(leaf);
        let dims = [
            shape.batch,
            random.one_of([shape.num_heads, shape.num_kv_heads, 1]),
            shape.seq_len_q.div_ceil(block),
            random.one_of([1, 2, 3]),
        ];
        let last = shape.seq_len_kv.div_ceil(block) as i64 - 1;
        let lists = random.ints_of(dims.iter().product(), |_| (-1, last));
        AuxData::new().block_indices(dims, lists)
    }
}
