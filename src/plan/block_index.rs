//! Which blocks of keys each block of queries attends to, picked on the device: the lists of `block_sparse`.

use std::ops::Range;
use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{Operand, check_outputs_apart};
use super::cut::{Axis, Grid, Reach, Tensor};
use super::mask_tables::MaskTables;
use super::masked_kernel::MaskedKernel;
use super::pieces::{Pieces, Schedule, Source};
use super::tensors::{Numbering, Tensors};
use crate::auxiliary::AuxBuffers;
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::{KernelKey, PickConfig, PooledSide};
use crate::kernel::limits::Needs;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::row_format;
use crate::mask::{BlockIndexOptions, BlockPooling};
use crate::problem::{Problem, Resolved};
use crate::tensor::shape::elements;

/// Picks the lists of [`crate::Mask::block_sparse`] from q and k, any number of times: what native sparse attention, DSA
/// and MoBA call the indexer or the router. [`BlockIndexOptions`] says how.
///
/// What it writes is the auxiliary tensor `block_indices` of the attention that follows, in the same encoder, and of its
/// gradients. It passes no gradient on to q and k.
///
/// ```no_run
/// # fn f(device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder, [q, k, v, o, block_indices]: [wgpu::BufferSlice<'_>; 5])
/// # -> wgpu_attention::Result<()> {
/// use wgpu_attention::auxiliary::AuxShape;
/// use wgpu_attention::mask::BlockIndexOptions;
/// use wgpu_attention::plan::{BlockIndexBuffers, BlockIndexPlan};
/// use wgpu_attention::{
///     AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, Kernels, Mask, Problem, Shape,
/// };
/// let kernels = Kernels::new(device, &Default::default());
/// let options = BlockIndexOptions::new(64, 16).causal(true).keep_first(true).keep_own(true);
/// let problem = Problem::new(Shape::new(1, 8, 4096, 128).num_kv_heads(2))
///     .mask(Mask::causal() & Mask::block_sparse(64));
/// let index = BlockIndexPlan::new(&kernels, &problem, &options)?;
/// let problem = problem.aux_shape(AuxShape::new().with(AuxTensor::BlockIndices, index.dims()));
/// let plan = AttentionPlan::new(&kernels, &problem, &Default::default())?;
/// // Each time:
/// index.encode(encoder, &BlockIndexBuffers { q, k, aux: AuxBuffers::new(), block_indices })?;
/// let aux = AuxBuffers::new().with(AuxTensor::BlockIndices, block_indices);
/// plan.encode(encoder, &AttentionBuffers { q, k, v, aux, o, lse: None })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BlockIndexPlan {
    kernel: MaskedKernel,
    problem: Arc<Resolved>,
    dims: [usize; 4],
    /// Pooled queries and keys.
    pooled: [wgpu::Buffer; 2],
    /// Of the kernels that pool queries and keys, and of the one that picks.
    pieces: [Pieces; 3],
    schedule: Schedule,
}

/// The caller's buffers for [`BlockIndexPlan::encode`]; rules as for [`crate::AttentionBuffers`].
#[derive(Debug, Clone)]
pub struct BlockIndexBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// What says how long sequences are, where they have lengths of their own; the mask's data aren't read.
    pub aux: AuxBuffers<'a>,
    /// i32, of the sizes [`BlockIndexPlan::dims`], written. Attention copies it, so that it needs `COPY_SRC`, too.
    pub block_indices: BufferSlice<'a>,
}

impl BlockIndexPlan {
    /// Validates and compiles. Of the problem, the mask, the scores and v play no part, but for the sign of the scale.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; and for options out of their ranges.
    pub fn new(kernels: &Kernels, problem: &Problem, options: &BlockIndexOptions) -> Result<Self> {
        Self::of(kernels, &Arc::new(Resolved::new(problem.rows_alone())?), options)
    }

    /// The plan of a checked problem that has no mask.
    pub(crate) fn of(
        kernels: &Kernels,
        problem: &Arc<Resolved>,
        options: &BlockIndexOptions,
    ) -> Result<Self> {
        let shape = &problem.shape;
        options.check(shape)?;
        let mask = MaskTables::new(kernels, problem, None)?;
        let maximum = options.pooling == BlockPooling::Max;
        let pool = |of| {
            let rows = row_format(problem);
            KernelKey::PoolBlocks { rows, of, mask: Arc::clone(&mask.text) }
        };
        let config = PickConfig {
            capacity: options.k.next_power_of_two().max(WORKGROUP_SIZE as usize),
            keep_first: options.keep_first,
            keep_own: options.keep_own,
            causal: options.causal,
        };
        let keys = [
            pool(PooledSide::Queries),
            pool(PooledSide::Keys { maximum }),
            KernelKey::PickBlocks { config, mask: Arc::clone(&mask.text) },
        ];
        for key in &keys {
            Needs::of(key).check(key.entry_point(), &kernels.traits().limits)?;
        }

        let dims = options.dims(shape);
        let [batch, heads, query_blocks, count] = dims;
        elements("block_indices", &dims)?;
        let key_blocks = shape.seq_len_kv.div_ceil(options.block);
        let vectors = shape.head_dim.div_ceil(4);
        let pooled_dims = [
            [batch, heads, query_blocks, vectors * 4],
            [batch, shape.num_kv_heads, key_blocks, vectors * 4],
        ];
        let pooled = |name, dims: [usize; 4]| {
            let bytes = (elements(name, &dims)? as u64 * 4).max(16);
            crate::device::buffer(kernels.device(), name, bytes, wgpu::BufferUsages::STORAGE)
        };
        let (queries, keys_pooled) = ("pooled queries", "pooled keys");
        let buffers = [pooled(queries, pooled_dims[0])?, pooled(keys_pooled, pooled_dims[1])?];

        // `check` has seen that a block is counted in 32 bits, and how long a list is.
        let params = Params {
            index_block: options.block as u32,
            index_count: count as u32,
            ..Params::new(problem, &mask.layout, options.block)?
        };
        let params = |index_heads: usize| Params { index_heads: index_heads as u32, ..params };
        let per_workgroup = WORKGROUP_SIZE as usize;
        let pool_work = |heads: usize| {
            (4 * per_workgroup as u64).saturating_mul(options.block.saturating_mul(heads) as u64)
        };
        let dense = |binding, name, dims, reach| Tensor::dense(binding, name, dims, 4, reach);
        let own = [Axis::Own; 3];

        let pool_queries = {
            let work = pool_work(shape.num_heads / heads.max(1));
            let grid = Grid::items([batch, heads, query_blocks], vectors, per_workgroup, work);
            let numbering =
                if options.share_group { Numbering::KvHeads } else { Numbering::Queries };
            let q = all_rows(Tensors::new(problem, numbering).q());
            let output = dense(Binding::Pooled, queries, pooled_dims[0], own);
            Pieces::new(kernels, &grid, &[q, output], &params(heads))?
        };
        let pool_keys = {
            let sizes = [batch, shape.num_kv_heads, key_blocks];
            let grid = Grid::items(sizes, vectors, per_workgroup, pool_work(1));
            let k = all_rows(Tensors::new(problem, Numbering::KvHeads).k());
            let output = dense(Binding::Pooled, keys_pooled, pooled_dims[1], own);
            Pieces::new(kernels, &grid, &[k, output], &params(shape.num_kv_heads))?
        };
        let pick = {
            let ranks = count.saturating_add(per_workgroup);
            let work = key_blocks.saturating_mul(vectors * 4 + ranks) as u64;
            let grid = Grid::blocks([batch, heads, query_blocks], 1, false, work);
            let group = if options.share_group { 1 } else { shape.group_size() };
            let of_keys: Reach = [Axis::Own, Axis::Shared(group), Axis::All];
            let reached = [
                dense(Binding::PooledQ, queries, pooled_dims[0], own),
                dense(Binding::PooledK, keys_pooled, pooled_dims[1], of_keys),
                dense(Binding::BlockIndices, "block_indices", dims, own),
            ];
            Pieces::new(kernels, &grid, &reached, &params(heads))?
        };
        let pieces = [pool_queries, pool_keys, pick];
        let work = mask.work().chain(pieces.iter().flat_map(Pieces::work));
        let schedule = Schedule::new(work, kernels.traits().most_work);
        Ok(Self {
            kernel: MaskedKernel::new(kernels, mask, keys)?,
            problem: Arc::clone(problem),
            dims,
            pooled: buffers,
            pieces,
            schedule,
        })
    }

    /// The sizes of `block_indices`, `[batch, num_heads|num_kv_heads, blocks of queries, blocks of a list]`.
    pub const fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// What the plan holds on the device beyond the caller's tensors, in bytes: the pooled queries and keys in f32, and the
    /// sequences' lengths.
    pub fn scratch_bytes(&self) -> u64 {
        let pooled: u64 = self.pooled.iter().map(wgpu::Buffer::size).sum();
        let blocks: u64 = self.pieces.iter().map(Pieces::bytes).sum();
        pooled + blocks + self.kernel.mask.bytes()
    }

    /// In how many submissions the work may be: [`BlockIndexPlan::encode_submission`].
    pub const fn submissions(&self) -> usize {
        self.schedule.count()
    }

    /// Records one of [`BlockIndexPlan::submissions`], for a command buffer of its own: all of them, in order, do what
    /// [`BlockIndexPlan::encode`] does. See [`crate::AttentionPlan::encode_submission`].
    ///
    /// # Errors
    /// As [`BlockIndexPlan::encode`]; and where there's no such submission.
    pub fn encode_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BlockIndexBuffers<'_>,
        submission: usize,
    ) -> Result<()> {
        self.record(encoder, buffers, self.schedule.steps(submission)?)
    }

    /// Records the picking.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BlockIndexBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, self.schedule.all())
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BlockIndexBuffers<'_>,
        steps: Range<usize>,
    ) -> Result<()> {
        let q = Operand::placed("q", buffers.q, &self.problem.q);
        let k = Operand::placed("k", buffers.k, &self.problem.k);
        let words = self.dims.iter().product();
        let lists = Operand::new("block_indices", buffers.block_indices, words);
        for operand in [&q, &k, &lists] {
            operand.check_storage(&self.kernel.kernels)?;
        }
        let mask = self.kernel.mask.operands(&buffers.aux)?;
        let mut inputs = vec![q, k];
        inputs.extend(&mask);
        check_outputs_apart(&inputs, &[lists])?;
        if words == 0 {
            return Ok(());
        }
        let [pooled_q, pooled_k] = [0, 1].map(|at| {
            let buffer = &self.pooled[at];
            Operand { name: "pooled rows", slice: buffer.slice(..), bytes: buffer.size() }
        });
        let windows = |stage: usize, binding| {
            Some(Source::Window(match binding {
                Binding::Q => q,
                Binding::K => k,
                Binding::Pooled if stage == 0 => pooled_q,
                Binding::Pooled => pooled_k,
                Binding::PooledQ => pooled_q,
                Binding::PooledK => pooled_k,
                Binding::BlockIndices => lists,
                _ => return None,
            }))
        };
        let [pool_queries, pool_keys, pick] = &self.pieces;
        let stages = [pool_queries, pool_keys, pick];
        self.kernel.record(encoder, "block indices", &steps, &stages, &mask, windows)
    }
}

/// A tensor of which whatever rows of a head may be reached.
fn all_rows(tensor: Tensor) -> Tensor {
    let [batch, heads, _] = tensor.reach;
    Tensor { reach: [batch, heads, Axis::All], ..tensor }
}
