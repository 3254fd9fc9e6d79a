//! Results over parts of the keys, put together: splits of one pass, or whole results.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{Operand, check_outputs_apart};
use super::cut::Grid;
use super::mask_tables::MaskTables;
use super::pieces::{Pieces, Source};
use super::tensors::{Numbering, Tensors};
use super::{BindGroups, begin_pass, empty_buffer};
use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::key::{KernelKey, Parts, RowAccess, RowFormat};
use crate::kernel::limits::check_binding_size;
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::row_format;
use crate::mask::Mask;
use crate::mask::emit::MaskText;
use crate::problem::{Placed, Problem, Resolved};
use crate::tensor::dtype::Dtypes;
use crate::tensor::shape::{Shape, elements};

/// Puts the results of attention over disjoint sets of keys together, on the device, as if it had been one set.
///
/// With o and lse of each set, `lse = ln Σ exp(lse_i)` and `o = Σ exp(lse_i − lse) o_i` (FlashAttention's and ring
/// attention's rule). A set that a row keeps nothing of has `lse_i = −∞` and counts for nothing. Sinks belong to one of the
/// parts, since each adds its own.
///
/// The parts lie in buffers of the plan, which passes write into as they would into any others, or which results from
/// elsewhere are copied into.
///
/// A prefix that many sequences share is so attended to once for all (cascade): its keys lie in memory once, with a batch
/// stride of 0, and what is each sequence's own is another part.
///
/// ```no_run
/// # fn f(device: &wgpu::Device, queue: &wgpu::Queue, [q, prefix_k, prefix_v, k, v, o]: [&wgpu::Buffer; 6]) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{AttentionBuffers, AttentionPlan, Kernels, Mask, AuxBuffers, Problem, Shape};
/// use wgpu_attention::plan::MergePlan;
/// use wgpu_attention::tensor::Strides;
/// let kernels = Kernels::new(device, &Default::default());
/// // 16 sequences, one query each: 1000 keys of a prompt that they share, then up to 64 of their own.
/// let shape = Shape::new(16, 8, 1, 64);
/// let shared = Strides { batch: 0, head: 1000 * 64, seq: 64, dim: 1 };
/// let prefix = Problem::new(shape.seq_len_kv(1000)).k_strides(shared).v_strides(shared);
/// let own = Problem::new(shape.seq_len_kv(64)).mask(Mask::causal());
/// let (prefix_plan, own_plan) = (AttentionPlan::new(&kernels, &prefix, &Default::default())?, AttentionPlan::new(&kernels, &own, &Default::default())?);
/// let merge = MergePlan::new(&kernels, &own, 2)?;
///
/// let mut encoder = device.create_command_encoder(&Default::default());
/// for (part, (plan, k, v)) in [(&prefix_plan, prefix_k, prefix_v), (&own_plan, k, v)].into_iter().enumerate() {
///     let part = merge.part(part)?;
///     plan.encode(&mut encoder, &AttentionBuffers {
///         q: q.slice(..),
///         k: k.slice(..),
///         v: v.slice(..),
///         aux: AuxBuffers::new(),
///         o: part.o,
///         lse: Some(part.lse),
///     })?;
/// }
/// merge.encode(&mut encoder, o.slice(..), None)?;
/// queue.submit([encoder.finish()]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MergePlan {
    kernels: Kernels,
    o: Placed,
    /// Elements of o and of lse.
    lens: [usize; 2],
    count: usize,
    layout: PartLayout,
    mask: MaskTables,
    merge: Merge,
    o_parts: wgpu::Buffer,
    lse_parts: wgpu::Buffer,
    /// Where lse goes if nobody asks for it.
    lse: wgpu::Buffer,
    empty: wgpu::Buffer,
    bind_groups: BindGroups,
}

/// Where one part of a [`MergePlan`] belongs. The buffers have the usages `STORAGE`, `COPY_DST` and `COPY_SRC`.
#[derive(Debug, Clone, Copy)]
pub struct PartSlices<'a> {
    /// f32 `[batch, num_heads, seq_len_q, head_dim_v]`, dense
    pub o: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense
    pub lse: BufferSlice<'a>,
}

impl MergePlan {
    /// For `parts` results of problems that have the batch, heads, queries and `head_dim_v` of `problem`. The merged o has
    /// the strides and the type that `problem` gives it; its keys, mask and scores play no part. Rows that belong to no
    /// sequence are merged like the others, from whatever the parts hold there.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; and for no parts.
    pub fn new(kernels: &Kernels, problem: &Problem, parts: usize) -> Result<Self> {
        problem.validate()?;
        if parts == 0 {
            return Err(Error::operand("parts", "at least 1", parts));
        }
        // lse has the scale in it, and each part its sinks. Every row that there is in memory is merged.
        let problem = problem.mask_alone().mask(Mask::All).scale(1.0).rows_in_memory();
        let problem = Resolved::new(problem)?;
        let shape = &problem.shape;
        let alignment = kernels.traits().limits.min_storage_buffer_offset_alignment as usize / 4;
        let layout = PartLayout::aligned(shape, parts, shape.head_dim_v, alignment.max(4))?;
        let mask = MaskTables::new(kernels, &problem, None)?;
        let mut params = Params::new(&problem, &mask.layout, 1)?;
        layout.write(&mut params);
        params.num_splits = u32::try_from(parts)
            .map_err(|_| Error::operand("parts", format!("at most {}", u32::MAX), parts))?;
        let access = match shape.head_dim_v.is_multiple_of(4) {
            true => RowAccess::Vec4,
            false => RowAccess::Scalar,
        };
        let merge = Merge::new(kernels, &problem, Parts::Results(access), false, &params)?;
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC;
        let o_parts = layout.allocate(kernels, "parts of o", layout.part, usage)?;
        let lse_parts = layout.allocate(kernels, "parts of lse", layout.stats, usage)?;
        let lse_bytes = problem.lse_len.max(1) as u64 * 4;
        let lse =
            crate::device::buffer(kernels.device(), "lse", lse_bytes, wgpu::BufferUsages::STORAGE)?;
        Ok(Self {
            kernels: kernels.clone(),
            o: problem.o,
            lens: [problem.o_len, problem.lse_len],
            count: parts,
            layout,
            mask,
            merge,
            o_parts,
            lse_parts,
            lse,
            empty: empty_buffer(kernels)?,
            bind_groups: BindGroups::default(),
        })
    }

    /// Where the result over the `index`th part of the keys belongs.
    ///
    /// # Errors
    /// [`Error::Operand`] where there is no such part.
    pub fn part(&self, index: usize) -> Result<PartSlices<'_>> {
        if index >= self.count {
            return Err(Error::operand("part", format!("less than {}", self.count), index));
        }
        let slice = |stride: usize, words: usize| {
            let start = (index * stride) as u64 * 4;
            start..start + words.max(1) as u64 * 4
        };
        let [o_len, lse_len] = self.lens;
        Ok(PartSlices {
            o: self.o_parts.slice(slice(self.layout.part, o_len)),
            lse: self.lse_parts.slice(slice(self.layout.stats, lse_len)),
        })
    }

    /// Lets go of the caller's buffers: see [`crate::AttentionPlan::forget_buffers`].
    pub fn forget_buffers(&self) {
        self.bind_groups.forget();
    }

    /// Records the merging of what is in the parts then: `o` as the problem has it, lse f32
    /// `[batch, num_heads, seq_len_q]`.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        o: BufferSlice<'_>,
        lse: Option<BufferSlice<'_>>,
    ) -> Result<()> {
        let [o_len, lse_len] = self.lens;
        let o = Operand::placed("o", o, &self.o);
        let lse = lse.unwrap_or_else(|| self.lse.slice(..));
        let lse = Operand::new("lse", lse, lse_len);
        let parts = [
            Operand::new("parts of o", self.o_parts.slice(..), self.layout.part * self.count),
            Operand::new("parts of lse", self.lse_parts.slice(..), self.layout.stats * self.count),
        ];
        check_outputs_apart(&parts, &[o, lse])?;
        for operand in [&o, &lse] {
            operand.check_storage(&self.kernels)?;
        }
        if o_len == 0 {
            return Ok(());
        }
        let source = |binding| {
            Ok(match binding {
                Binding::O => Source::Window(o),
                Binding::LseOut => Source::Window(lse),
                Binding::LsesIn => Source::Whole(self.lse_parts.as_entire_binding()),
                Binding::PartIn(_) => Source::Whole(self.o_parts.as_entire_binding()),
                _ => Source::Whole(self.mask.buffer.as_entire_binding()),
            })
        };
        let bind_groups = self.merge.bind(&self.kernels, &self.bind_groups, &self.empty, source)?;
        let mut pass = begin_pass(encoder, "merge");
        self.merge.encode(&mut pass, &bind_groups);
        Ok(())
    }
}

/// How what the parts found lies in memory, in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartLayout {
    count: usize,
    /// From one part's o to the next.
    pub(super) part: usize,
    /// From one part's stats of a row to the next's, in stats.
    pub(super) stats: usize,
    /// From one row of o to the next.
    row: usize,
}

impl PartLayout {
    /// Parts of rows of `row` components, one behind the other.
    pub(super) fn new(shape: &Shape, count: usize, row: usize) -> Result<Self> {
        Self::aligned(shape, count, row, 1)
    }

    /// The same, each part at a multiple of `alignment`.
    fn aligned(shape: &Shape, count: usize, row: usize, alignment: usize) -> Result<Self> {
        let rows = shape.lse_len()?;
        let part = elements("parts", &[rows, row])?.next_multiple_of(alignment);
        let layout = Self { count, part, stats: rows.next_multiple_of(alignment), row };
        // Kernels count them in 32 bits.
        let words = elements("parts", &[count, part])?;
        u32::try_from(words).map_err(|_| {
            Error::operand("parts", "at most 2^32 elements", format!("{count} x {part}"))
        })?;
        Ok(layout)
    }

    /// Where kernels find them.
    pub(super) fn write(&self, params: &mut Params) {
        // Each is at most the product that `aligned` has checked.
        params.part_strides = [self.part as u32, 0, self.row as u32, 1];
        params.stats_stride = self.stats as u32;
    }

    /// A buffer of `words` for each part.
    pub(super) fn allocate(
        &self,
        kernels: &Kernels,
        name: &'static str,
        words: usize,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let bytes = elements(name, &[self.count, words])?.max(4) as u64 * 4;
        // A row's parts lie as far apart as parts do, so that they aren't bound in pieces.
        let instead = "ask for fewer splits, split the batch, or use a device that binds more";
        check_binding_size(&kernels.traits().limits, name, bytes, instead)?;
        crate::device::buffer(kernels.device(), name, bytes, usage)
    }
}

/// The merge of a problem's o.
#[derive(Debug)]
pub(super) struct Merge {
    bindings: Vec<Binding>,
    pipeline: Arc<Pipeline>,
    pub(super) pieces: Pieces,
}

impl Merge {
    pub(super) fn new(
        kernels: &Kernels,
        problem: &Resolved,
        parts: Parts,
        sinks: bool,
        params: &Params,
    ) -> Result<Self> {
        let shape = &problem.shape;
        let format = row_format(problem);
        let key = KernelKey::Merge {
            rows: RowFormat {
                access: format.access,
                dtypes: Dtypes { o: format.dtypes.o, ..Dtypes::default() },
            },
            parts,
            sinks,
            // Whatever the mask is, its header has the place of the sinks.
            mask: Arc::new(MaskText::new(&Mask::All, shape.sequences.forms())),
        };
        let per_workgroup = WORKGROUP_SIZE as usize;
        let work = per_workgroup as u64 * 8 * u64::from(params.num_splits);
        let sizes = [shape.batch, shape.num_heads, shape.seq_len_q];
        let grid = Grid::items(sizes, shape.head_dim_v.div_ceil(4), per_workgroup, work);
        let tensors = Tensors::new(problem, Numbering::Queries);
        let reached = [tensors.o(), tensors.lse(Binding::LseOut)];
        let pieces = Pieces::new(kernels, &grid, &reached, params)?;
        Ok(Self { bindings: key.bindings(), pipeline: kernels.pipeline(key)?, pieces })
    }

    /// The bind groups of its pieces.
    pub(super) fn bind<'a>(
        &'a self,
        kernels: &Kernels,
        bind_groups: &BindGroups,
        empty: &'a wgpu::Buffer,
        source: impl Fn(Binding) -> Result<Source<'a>>,
    ) -> Result<Vec<wgpu::BindGroup>> {
        (0..self.pieces.count())
            .map(|piece| {
                let resources = self.pieces.resources(piece, &self.bindings, empty, &source)?;
                Ok(bind_groups.get(kernels, &self.pipeline, &resources))
            })
            .collect()
    }

    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, bind_groups: &[wgpu::BindGroup]) {
        for (piece, bind_group) in bind_groups.iter().enumerate() {
            self.pieces.encode(piece, pass, &self.pipeline, bind_group);
        }
    }
}
