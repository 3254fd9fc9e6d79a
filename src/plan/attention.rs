//! The forward pass.

use std::ops::Range;
use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{Operand, check_outputs_apart};
use super::choice::Choice;
use super::mask_tables::MaskTables;
use super::merge::{Merge, PartLayout};
use super::pieces::{Pieces, Schedule, Share, Source, steps_within};
use super::work::packed_blocks;
use super::{BindGroups, begin_pass, empty_buffer, windows, work};
use crate::auxiliary::AuxBuffers;
use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::key::{ForwardKernel, KernelKey, Parts};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};
use crate::kernel::tiles::{MAX_SPLITS, Splitting};
use crate::problem::{Problem, Resolved};

/// Attention for one problem, validated and compiled, to be encoded any number of times.
///
/// Tensors may be larger than the device binds in one piece (`max_storage_buffer_binding_size`): dispatches bind windows of
/// them. Keys of one head that are larger come in windows, too, of which each goes on from what the ones before left in o: o in
/// 16 bits is then rounded once for each, as [`AttentionPlan::explain`] says how many there are. So do packed and left-padded queries
/// that are larger, each window of them on its own.
///
/// A plan owns its pipeline and the mask's buffer (and one for lse). It submits nothing, polls nothing and writes
/// nothing from the host: everything it does is in the commands that [`AttentionPlan::encode`] records. It keeps the buffers
/// of its last `encode`s alive, until it is dropped or told otherwise ([`AttentionPlan::forget_buffers`]).
///
/// ```no_run
/// # fn f(device: &wgpu::Device, queue: &wgpu::Queue, q: wgpu::Buffer, k: wgpu::Buffer, v: wgpu::Buffer, o: wgpu::Buffer) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{AttentionBuffers, AttentionPlan, Kernels, Mask, AuxBuffers, Problem, Shape};
/// let kernels = Kernels::new(device, &Default::default());
/// let problem = Problem::new(Shape::new(1, 8, 128, 64)).mask(Mask::causal());
/// let plan = AttentionPlan::new(&kernels, &problem, &Default::default())?;
/// let mut encoder = device.create_command_encoder(&Default::default());
/// plan.encode(&mut encoder, &AttentionBuffers {
///     q: q.slice(..),
///     k: k.slice(..),
///     v: v.slice(..),
///     aux: AuxBuffers::new(),
///     o: o.slice(..),
///     lse: None,
/// })?;
/// queue.submit([encoder.finish()]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct AttentionPlan {
    kernels: Kernels,
    problem: Arc<Resolved>,
    choice: Choice,
    mask: MaskTables,
    bindings: Vec<Binding>,
    pipeline: Arc<Pipeline>,
    pieces: Pieces,
    splits: Option<Splits>,
    schedule: Schedule,
    /// Where lse goes if nobody asks for it.
    lse: wgpu::Buffer,
    /// f32 `[batch, num_heads, seq_len_q, 2]`: m and l of the segments of the keys so far, where there are several.
    segment_stats: Option<wgpu::Buffer>,
    kept_bytes: u64,
    empty: wgpu::Buffer,
    bind_groups: BindGroups,
}

/// What can be chosen about an [`AttentionPlan`].
///
/// ```no_run
/// # fn f(kernels: &wgpu_attention::Kernels) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{AttentionPlan, Problem, Shape};
/// use wgpu_attention::plan::PlanOptions;
/// let problem = Problem::new(Shape::new(1, 32, 1, 128).num_kv_heads(8).seq_len_kv(4096));
/// let plan = AttentionPlan::new(kernels, &problem, &PlanOptions::default().num_splits(16))?;
/// assert_eq!(plan.num_splits(), 16);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct PlanOptions {
    /// A kernel to use instead of the best one.
    pub kernel: Option<ForwardKernel>,
    /// In how many splits a decode kernel has the keys, each a workgroup's: 1 to 255, instead of as many as suit the device
    /// and the shape. More than 1 is for the decode kernels alone. Where the device doesn't bind all keys of a head in one
    /// piece, the number is a multiple of the windows that it binds, at least one split for each.
    pub num_splits: Option<usize>,
    /// Whether a sequence's results are the same bits whatever else is in the batch: how many sequences there are, how long
    /// they are, and which place it has among them. Decode kernels then have a split for each 256 of `seq_len_kv` keys
    /// instead of as many as fill the device, and a measured profile isn't asked.
    ///
    /// The kernel still follows from `seq_len_q` (up to 16 queries are decoded) and the splits from `seq_len_kv`: keep both the
    /// same, as a cache's capacity is. With a `kernel` that doesn't split the keys, a token also gets the same bits in a step
    /// of one token as in a step of many.
    ///
    /// Keys that are packed, paged or left-padded are refused where the device doesn't bind them in one piece: in which windows a
    /// sequence's keys come then depends on the others.
    pub batch_invariant: bool,
}

impl PlanOptions {
    setters! {
        option kernel: ForwardKernel,
        option num_splits: usize,
        batch_invariant: bool,
    }

    /// Into how many splits the keys go, checked.
    pub(super) fn splitting(&self) -> Result<Splitting> {
        match self.num_splits {
            Some(splits) if !(1..=MAX_SPLITS).contains(&splits) => {
                Err(Error::operand("num_splits", format!("1 to {MAX_SPLITS}"), splits))
            }
            Some(splits) => Ok(Splitting::Given(splits)),
            None if self.batch_invariant => Ok(Splitting::ByKeys),
            None => Ok(Splitting::Suitable),
        }
    }
}

/// The caller's buffers for [`AttentionPlan::encode`]; q, k, v and o are of the problem's types.
///
/// All need `BufferUsages::STORAGE`, offsets that are multiples of `min_storage_buffer_offset_alignment`, and room
/// for the tensor's strides. RunOptions need other buffers than inputs.
#[derive(Debug, Clone)]
pub struct AttentionBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`
    pub v: BufferSlice<'a>,
    /// The auxiliary tensors that the problem reads.
    pub aux: AuxBuffers<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, written
    pub o: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense, written if given
    pub lse: Option<BufferSlice<'a>>,
}

impl AttentionPlan {
    /// Validates the problem, chooses a kernel and compiles it.
    ///
    /// # Errors
    /// Where the problem is invalid, or larger than the device's limits, or the device fails to compile or allocate;
    /// [`Error::KernelRefused`] where the kernel of the options can't serve the problem on this device.
    pub fn new(kernels: &Kernels, problem: &Problem, options: &PlanOptions) -> Result<Self> {
        let problem = Arc::new(Resolved::new(problem.clone())?);
        let choice = Choice::new(kernels, &problem, options)?;
        Self::of(kernels, &problem, choice)
    }

    /// The plan of a choice for a checked problem.
    pub(crate) fn of(kernels: &Kernels, problem: &Arc<Resolved>, choice: Choice) -> Result<Self> {
        let config = choice.config;
        let splits_of_window = choice.num_splits / choice.windows.looped.len().max(1);
        let mask = MaskTables::new(kernels, problem, Some(config.grid))?;
        let mut params = Params::new(problem, &mask.layout, config.grid.block_q)?;
        let shape = &problem.shape;
        if let Some(rows) = config.form.packed_rows() {
            params.q_blocks = packed_blocks(shape, rows) as u32;
        }
        let (grid, reached) = work::forward(problem, &config, splits_of_window);
        let splits = match config.form.is_split() {
            true => Some(Splits::new(kernels, problem, choice.num_splits, &mut params)?),
            false => None,
        };
        let kept_bytes = (problem.o.span * problem.dtypes.o.size() + problem.lse_len * 4) as u64;
        let workgroups = grid.workgroups()?;
        params.num_splits = splits_of_window as u32;
        let shares: Vec<_> = (0..config.form.dispatches(config.head_dim_v))
            .flat_map(|slice| {
                let params = Params { slice: slice as u32, ..params };
                let whole =
                    Share { grid, reached: reached.clone(), workgroups: 0..workgroups, params };
                windows::shares(whole, &choice.windows)
            })
            .collect();
        let pieces = Pieces::of_shares(kernels, &shares)?;
        let merging = splits.iter().map(|splits| splits.merge.pieces.work().sum());
        let work = mask.work().chain(pieces.work()).chain(merging);
        let schedule = Schedule::new(work, kernels.traits().most_work);
        let key = KernelKey::Forward {
            config,
            score: problem.score_text.clone(),
            mask: Arc::clone(&mask.text),
        };
        let bindings = key.bindings();
        let pipeline = kernels.pipeline(key)?;
        let lse = crate::device::buffer(
            kernels.device(),
            "lse",
            problem.lse_len.max(1) as u64 * 4,
            wgpu::BufferUsages::STORAGE,
        )?;
        let segment_stats = match config.folds {
            true => Some(crate::device::buffer(
                kernels.device(),
                "stats of segments",
                problem.lse_len.max(1) as u64 * 8,
                wgpu::BufferUsages::STORAGE,
            )?),
            false => None,
        };
        let plan = Self {
            kernels: kernels.clone(),
            problem: Arc::clone(problem),
            choice,
            mask,
            bindings,
            pipeline,
            pieces,
            splits,
            schedule,
            lse,
            segment_stats,
            kept_bytes,
            empty: empty_buffer(kernels)?,
            bind_groups: BindGroups::default(),
        };
        log::debug!("{}", plan.explain());
        Ok(plan)
    }

    /// In how many submissions [`AttentionPlan::encode_submission`] records the work: 1 where it's short.
    ///
    /// More where it would do more than [`KernelOptions::most_work`](crate::kernel::KernelOptions::most_work) in one.
    pub const fn submissions(&self) -> usize {
        self.schedule.count()
    }

    /// Records one of [`AttentionPlan::submissions`], for a command buffer of its own: drivers reset a GPU that is busy with one
    /// submission for longer than some seconds. All of them, in order, over the same buffers, do what
    /// [`AttentionPlan::encode`] does, to the bit. The first one also copies the mask's data.
    ///
    /// ```no_run
    /// # fn f(device: &wgpu::Device, queue: &wgpu::Queue, plan: &wgpu_attention::AttentionPlan, buffers: &wgpu_attention::AttentionBuffers<'_>) -> wgpu_attention::Result<()> {
    /// for submission in 0..plan.submissions() {
    ///     let mut encoder = device.create_command_encoder(&Default::default());
    ///     plan.encode_submission(&mut encoder, buffers, submission)?;
    ///     queue.submit([encoder.finish()]);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`]; and where there's no such submission.
    pub fn encode_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &AttentionBuffers<'_>,
        submission: usize,
    ) -> Result<()> {
        self.record(encoder, buffers, true, self.schedule.steps(submission)?)
    }

    /// In how many parts the keys are: 1 for kernels that don't split them.
    pub const fn num_splits(&self) -> usize {
        self.choice.num_splits
    }

    /// The kernel that was chosen.
    pub const fn kernel(&self) -> ForwardKernel {
        self.choice.kernel
    }

    /// What a backward pass needs of this one beyond its operands, in bytes: o and lse, which the caller holds until then.
    /// It grows with the number of queries, never with queries × keys.
    ///
    /// ```no_run
    /// # fn f(kernels: &wgpu_attention::Kernels) -> wgpu_attention::Result<()> {
    /// use wgpu_attention::{AttentionPlan, Problem, Shape};
    /// let problem = Problem::new(Shape::new(1, 8, 4096, 64));
    /// let plan = AttentionPlan::new(kernels, &problem, &Default::default())?;
    /// assert_eq!(plan.kept_bytes(), 8 * 4096 * (64 + 1) * 4);
    /// # Ok(()) }
    /// ```
    pub const fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// What the plan holds on the device beyond the caller's tensors, in bytes: the mask's data and its tile map, lse, and what
    /// the splits of a decode kernel find.
    ///
    /// ```no_run
    /// # fn f(kernels: &wgpu_attention::Kernels) -> wgpu_attention::Result<()> {
    /// use wgpu_attention::{AttentionPlan, Problem, Shape};
    /// let problem = Problem::new(Shape::new(1, 32, 1, 128).num_kv_heads(8).seq_len_kv(4096));
    /// let plan = AttentionPlan::new(kernels, &problem, &Default::default())?;
    /// println!("{} KiB", plan.scratch_bytes() / 1024);
    /// # Ok(()) }
    /// ```
    pub fn scratch_bytes(&self) -> u64 {
        let stats = self.segment_stats.as_ref().map_or(0, wgpu::Buffer::size);
        let own = self.lse.size() + stats + self.empty.size() + self.pieces.bytes();
        self.mask.bytes() + own + self.splits.as_ref().map_or(0, Splits::bytes)
    }

    /// The bytes of q, k, v, o and of what splits find that a decode kernel and its merge read and write, counted from their
    /// loops, if the mask empties no tile; `None` for the other kernels.
    pub fn bytes_moved(&self) -> Option<u64> {
        let shape = &self.problem.shape;
        let rows = self.choice.config.form.packed_rows()?;
        let packed = shape.group_size() * shape.seq_len_q;
        let blocks = packed.div_ceil(rows);
        let heads = (shape.batch * shape.num_kv_heads) as u64;
        let dtypes = self.problem.dtypes;
        let k = shape.seq_len_kv * dtypes.k.row_elements(shape.head_dim) * dtypes.k.size();
        let v = shape.seq_len_kv * dtypes.v.row_elements(shape.head_dim_v) * dtypes.v.size();
        let q = blocks * rows * shape.head_dim * dtypes.q.size() * self.num_splits();
        let o = packed * (shape.head_dim_v * dtypes.o.size() + 4);
        // o in whole vectors, once each way; m and l once, and twice by each invocation of a row's merge.
        let width = shape.head_dim_v.next_multiple_of(4);
        let parts = match self.splits {
            Some(_) => self.num_splits() * packed * (2 * 4 * width + 8 * (1 + 2 * width / 4)),
            None => 0,
        };
        Some(heads * (blocks * (k + v) + q + o + parts) as u64)
    }

    /// In words: the kernel, its tiles, and why the others weren't taken.
    pub fn explain(&self) -> String {
        self.choice.explain(&self.problem, self.mask.layout.classed_by)
    }

    /// Lets go of the caller's buffers.
    ///
    /// A plan keeps the bind groups of its last 128 sets of buffers, so that a loop over the same ones makes each of them once;
    /// and a bind group keeps its buffers alive, also where the application has dropped them. After this call the plan keeps
    /// none; the next `encode` makes its bind groups anew. Commands that are recorded already aren't affected.
    pub fn forget_buffers(&self) {
        self.bind_groups.forget();
        if let Some(splits) = &self.splits {
            splits.bind_groups.forget();
        }
    }

    /// Its tiles, in words: what tells plans of one kernel apart.
    pub fn tiles(&self) -> String {
        self.choice.config.tiles()
    }

    /// Records the attention of the problem over these buffers.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, true, self.schedule.all())
    }

    /// As [`AttentionPlan::encode`], with the mask's data and tables as the last `encode` of this plan left them:
    /// what building a tile map costs is paid once where the mask stays the same. Of `buffers.aux` only the bias is read.
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`].
    pub fn encode_reusing_mask(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, false, self.schedule.all())
    }

    /// Records the copy of one word to `destination` (`BufferUsages::COPY_DST`), which [`AttentionPlan::check_sequences`]
    /// puts into words: whether the lengths, starts and block tables of all `encode`s so far were ones that the problem has
    /// room for. Where one wasn't, that `encode` wrote nothing to o and lse, for any sequence.
    ///
    /// # Errors
    /// [`Error::Operand`] where the slice is smaller or lacks the usage.
    pub fn encode_sequences_check(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        destination: BufferSlice<'_>,
    ) -> Result<()> {
        self.mask.copy_fault(encoder, destination)
    }

    /// What the word of [`AttentionPlan::encode_sequences_check`] says.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first sequence whose data was wrong.
    pub fn check_sequences(&self, word: u32) -> Result<()> {
        super::sequences::check(&self.problem.shape, word)
    }

    /// Records that what was wrong with sequences so far is forgotten.
    pub fn clear_sequence_error(&self, encoder: &mut wgpu::CommandEncoder) {
        self.mask.clear_fault(encoder);
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &AttentionBuffers<'_>,
        make_mask: bool,
        steps: Range<usize>,
    ) -> Result<()> {
        let problem = &self.problem;
        let q = Operand::placed("q", buffers.q, &problem.q);
        let k = Operand::placed("k", buffers.k, &problem.k);
        let v = Operand::placed("v", buffers.v, &problem.v);
        let o = Operand::placed("o", buffers.o, &problem.o);
        let lse = buffers.lse.unwrap_or_else(|| self.lse.slice(..));
        let lse = Operand::new("lse", lse, problem.lse_len);
        let mask = match make_mask {
            true => self.mask.operands(&buffers.aux)?,
            false => Vec::new(),
        };
        let bias = Operand::bias(&self.problem, &buffers.aux)?;
        let mut inputs = vec![q, k, v];
        inputs.extend(bias);
        inputs.extend(&mask);
        check_outputs_apart(&inputs, &[o, lse])?;
        for operand in [&q, &k, &v, &o, &lse].into_iter().chain(&bias) {
            operand.check_storage(&self.kernels)?;
        }
        if problem.o_len == 0 {
            return Ok(());
        }
        let stats_words = problem.lse_len * 2;
        let stats = (self.segment_stats.as_ref())
            .map(|stats| Operand::new("stats of segments", stats.slice(..), stats_words));
        let source = |binding| {
            Ok(match (binding, &self.splits, bias) {
                (Binding::Q, ..) => Source::Window(q),
                (Binding::K, ..) => Source::Window(k),
                (Binding::V, ..) => Source::Window(v),
                (Binding::O, ..) => Source::Window(o),
                (Binding::LseOut, ..) => Source::Window(lse),
                (Binding::Bias, _, Some(bias)) => Source::Window(bias),
                (Binding::SegmentStats, ..) => match stats {
                    Some(stats) => Source::Window(stats),
                    None => Source::Whole(self.empty.as_entire_binding()),
                },
                (Binding::Part | Binding::PartIn(_), Some(splits), _) => {
                    Source::Whole(splits.part.as_entire_binding())
                }
                (Binding::Stats | Binding::StatsIn, Some(splits), _) => {
                    Source::Whole(splits.stats.as_entire_binding())
                }
                _ => Source::Whole(self.mask.buffer.as_entire_binding()),
            })
        };
        let own = self.mask.steps()..self.mask.steps() + self.pieces.count();
        let bind_groups = steps_within(&steps, own.clone())
            .map(|piece| {
                let resources =
                    self.pieces.resources(piece, &self.bindings, &self.empty, source)?;
                let bind_group = self.bind_groups.get(&self.kernels, &self.pipeline, &resources);
                Ok((piece, bind_group))
            })
            .collect::<Result<Vec<_>>>()?;
        // The last step puts the splits together.
        let merge = match &self.splits {
            Some(splits) if steps.end > own.end => {
                let (groups, empty) = (&splits.bind_groups, &self.empty);
                Some((&splits.merge, splits.merge.bind(&self.kernels, groups, empty, source)?))
            }
            _ => None,
        };
        if make_mask {
            if steps.start == 0 {
                self.mask.copy(encoder, &mask);
            }
            self.mask.make(encoder, steps_within(&steps, 0..own.start));
        }
        let mut pass = begin_pass(encoder, "attention");
        for (piece, bind_group) in &bind_groups {
            self.pieces.encode(*piece, &mut pass, &self.pipeline, bind_group);
        }
        if let Some((merge, bind_groups)) = &merge {
            merge.encode(&mut pass, bind_groups);
        }
        Ok(())
    }
}

/// What the splits of a decode kernel find, and the kernel that puts it together.
#[derive(Debug)]
struct Splits {
    /// f32 `[count, batch, num_heads, seq_len_q, head_dim_v rounded up to 4]`
    part: wgpu::Buffer,
    /// f32 `[count, batch, num_heads, seq_len_q, 2]`
    stats: wgpu::Buffer,
    merge: Merge,
    bind_groups: BindGroups,
}

impl Splits {
    fn bytes(&self) -> u64 {
        self.part.size() + self.stats.size() + self.merge.pieces.bytes()
    }

    /// Allocates, and writes into `params` where the kernels find it.
    fn new(
        kernels: &Kernels,
        problem: &Resolved,
        count: usize,
        params: &mut Params,
    ) -> Result<Self> {
        let shape = &problem.shape;
        let layout = PartLayout::new(shape, count, shape.head_dim_v.next_multiple_of(4))?;
        layout.write(params);
        params.num_splits = count as u32;
        let merge = Merge::new(kernels, problem, Parts::Splits, problem.score.sinks, params)?;
        let usage = wgpu::BufferUsages::STORAGE;
        let part = layout.allocate(kernels, "what splits found", layout.part, usage)?;
        let stats = layout.allocate(kernels, "stats of splits", layout.stats * 2, usage)?;
        Ok(Self { part, stats, merge, bind_groups: BindGroups::default() })
    }
}
