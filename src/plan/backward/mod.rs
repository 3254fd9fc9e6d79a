//! The backward pass: gradients from what the forward pass kept.

mod buffers;
mod chunks;
pub(super) mod custom;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::buffers::Operands;
pub use self::buffers::{BackwardBuffers, GradientBuffers};
use self::chunks::{Chunk, order_of};
use self::custom::{Custom, CustomWork};
use super::buffers::{Operand, check_outputs_apart};
use super::choice::choose;
use super::cut::Bounds;
use super::mask_tables::MaskTables;
use super::pieces::{Pieces, Schedule, Share, Source, steps_within};
use super::windows::{self, Windows};
use super::work::{self, Stage};
use super::{BindGroups, begin_pass, empty_buffer};
use crate::auxiliary::AuxTensor;
use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::cpu::broadcast::cell_bytes;
use crate::kernel::key::{BackwardConfig, BackwardKernel, BackwardPass, KernelKey};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};
use crate::kernel::tiles::{backward_candidates, backward_row_format};
use crate::mask::Mask;
use crate::mask::emit::MaskText;
use crate::mask::tile::ClassedBy;
use crate::problem::{GradientStrides, GradientTensors, Placed, Problem, Resolved};
use crate::score::ScoreText;
use crate::tensor::dtype::GradientDtypes;
use crate::tensor::sequences::KeySequences;
use crate::tensor::shape::Strides;

/// The gradients of one problem, validated and compiled, to be encoded any number of times.
///
/// It recomputes the weights from q, k and lse, and keeps no more of them than a bounded number of rows has: no tensor of
/// `seq_len_q × seq_len_kv` is made, nothing is added atomically, and the same input gives the same bits. Like [`crate::AttentionPlan`] it submits, polls and writes
/// nothing on the host.
///
/// Rows that keep no key have gradients of 0; what a masked position holds reaches no gradient.
///
/// Tensors may be larger than the device binds in one piece, as for an [`crate::AttentionPlan`], but for keys in a ring or in blocks.
///
/// ```no_run
/// # fn f(device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder, [q, k, v, o, lse, dout]: [wgpu::BufferSlice<'_>; 6],
/// #     [dq, dk, dv]: [wgpu::BufferSlice<'_>; 3]) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{BackwardPlan, Kernels, Mask, AuxBuffers, Problem, Shape};
/// use wgpu_attention::plan::{BackwardBuffers, GradientBuffers};
/// let kernels = Kernels::new(device, &Default::default());
/// let problem = Problem::new(Shape::new(1, 8, 128, 64)).mask(Mask::causal());
/// let plan = BackwardPlan::new(&kernels, &problem, &Default::default())?;
/// // o and lse are what the forward pass gave, dout is the loss's gradient with respect to o.
/// let gradients = GradientBuffers::default().dq(dq).dk(dk).dv(dv);
/// let mask = AuxBuffers::new();
/// plan.encode(encoder, &BackwardBuffers { q, k, v, o, lse, dout, dlse: None, aux: mask, gradients })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BackwardPlan {
    kernels: Kernels,
    problem: Arc<Resolved>,
    gradients: GradientTensors,
    kernel: BackwardKernel,
    config: BackwardConfig,
    score: ScoreText,
    rows_mask: MaskTables,
    /// The mask for the kernel that makes dk and dv, where it needs a tile map of its own.
    columns_mask: Option<MaskTables>,
    /// Of each of [`Stage::ALL`], in its order.
    pieces: Vec<Pieces>,
    /// In which order the pieces are encoded: a stage, and one of its pieces.
    order: Vec<(Stage, usize)>,
    schedule: Schedule,
    /// lse, delta and norm of each row.
    row_terms: wgpu::Buffer,
    /// The weights and gradients of scores of a chunk of rows, where dk and dv are made of them.
    cells: wgpu::Buffer,
    /// dk and dv of each sequence, where sequences may share rows.
    apart: Option<[wgpu::Buffer; 2]>,
    /// What makes the gradients of a score function's buffers, where the function has derivatives for some.
    custom: Option<Custom>,
    empty: wgpu::Buffer,
    partial_keys: bool,
    /// What has been asked for so far.
    kernels_of_passes: Mutex<HashMap<BackwardPass, Arc<PassKernel>>>,
}

/// A kernel of the pass, compiled.
#[derive(Debug)]
struct PassKernel {
    pipeline: Arc<Pipeline>,
    bindings: Vec<Binding>,
    bind_groups: BindGroups,
}

/// What can be chosen about the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct BackwardOptions {
    /// How they are stored.
    pub dtypes: GradientDtypes,
    /// Strides of dout instead of o's.
    pub dout_strides: Option<Strides>,
    /// Strides of dq instead of q's.
    pub dq_strides: Option<Strides>,
    /// Strides of dk instead of k's.
    pub dk_strides: Option<Strides>,
    /// Strides of dv instead of v's.
    pub dv_strides: Option<Strides>,
    /// A kernel to use instead of the best one.
    pub kernel: Option<BackwardKernel>,
    /// Whether the problem has only part of the rows' keys: o and lse are of all of them, merged, as where a sequence's keys are
    /// split among devices (ring attention) or a shared prefix lies apart ([`crate::plan::MergePlan`]).
    ///
    /// The rows' gradient is then the sum of what each part gives as dq, and each part's dk, dv and dbias are those of its own
    /// keys, and the parts' dalibi_slopes and dcustom add up; dsinks are the whole rows' in each. A row's weights add up to less than 1 here, and are as exact as `exp` of an
    /// f32 lse: to 2e-6 where it is below 64, to 2.5e-7 below 8. Without this option they are made to add up to 1.
    pub partial_keys: bool,
}

impl BackwardOptions {
    setters! {
        into dtypes: GradientDtypes,
        option dout_strides: Strides,
        option dq_strides: Strides,
        option dk_strides: Strides,
        option dv_strides: Strides,
        option kernel: BackwardKernel,
        const partial_keys: bool,
    }

    /// The backward pass's own tensors, checked.
    pub(crate) fn resolve(&self, problem: &Resolved) -> Result<GradientTensors> {
        let own = problem.strides;
        let strides = GradientStrides {
            dout: self.dout_strides.unwrap_or(own.o),
            dq: self.dq_strides.unwrap_or(own.q),
            dk: self.dk_strides.unwrap_or(own.k),
            dv: self.dv_strides.unwrap_or(own.v),
        };
        let written = self.dtypes;
        for (name, dtype) in [
            ("k", problem.dtypes.k),
            ("v", problem.dtypes.v),
            ("dq", written.dq),
            ("dk", written.dk),
            ("dv", written.dv),
            ("dbias", written.dbias),
        ] {
            if dtype.is_quantized() {
                return Err(Error::operand(name, "f32, f16 or bf16 in a backward pass", dtype));
            }
        }
        GradientTensors::new(problem, written, strides)
    }
}

impl BackwardPlan {
    /// Validates the problem, chooses a kernel and compiles it. By default the gradients are f32 and lie as their operands
    /// do.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; and where q, k or v repeat elements by strides of 0, which a gradient can't.
    pub fn new(kernels: &Kernels, problem: &Problem, options: &BackwardOptions) -> Result<Self> {
        let problem = Arc::new(Resolved::new(problem.clone())?);
        let gradients = options.resolve(&problem)?;
        Self::of(kernels, &problem, &gradients, options)
    }

    /// The plan of a checked problem, and of the gradients that its options describe.
    pub(crate) fn of(
        kernels: &Kernels,
        problem: &Arc<Resolved>,
        gradients: &GradientTensors,
        options: &BackwardOptions,
    ) -> Result<Self> {
        let made = gradients.of_sequences(problem)?;
        let score = problem.score_text_with_gradient()?;
        if let Some(custom) = &problem.score_mod {
            custom.idle_gradients().iter().for_each(|words| kernels.warn_once(words));
            for usage in custom.gradient_uses() {
                kernels.check_custom(custom, &usage)?;
            }
        }
        let considered = backward_candidates(problem, &made.strides, made.dtypes, kernels.traits());
        let (kernel, config) = choose(&considered, options.kernel)?;
        let bounds = Bounds::of(kernels.traits());
        let [of_dq, of_dkdv] = windows::of_backward(problem, &config, &made, &bounds)?;
        let config = config.of_windows([of_dq.windowed(), of_dkdv.windowed()]);
        let of_terms = Windows { looped: Vec::new(), ..of_dq.clone() };
        let nothing = Windows::default();
        let rows_mask = MaskTables::new(kernels, problem, Some(config.dq_grid))?;
        let own_map =
            rows_mask.layout.classed_by == ClassedBy::Map && config.dq_grid != config.dkdv_grid;
        let columns_mask = match own_map {
            true => Some(MaskTables::new(kernels, problem, Some(config.dkdv_grid))?),
            false => None,
        };
        let params = Params::new(problem, &rows_mask.layout, config.dq_grid.block_q)?
            .with_gradients(&made.strides)?;
        let params_of_pool = params.with_gradients(&gradients.strides)?;
        let terms_bytes = problem.lse_len.max(1) as u64 * 16;
        let of_stage = |stage| work::backward(problem, &config, &made, gradients, stage);
        let grids = [Stage::Dq, Stage::DkDv].map(|stage| of_stage(stage).0.workgroups());
        let [rows, columns] = grids;
        let limits = &kernels.traits().limits;
        let chunks = Chunk::all(problem, &config, limits, rows?, columns?);
        let custom = CustomWork::of(problem)
            .map(|work| Custom::new(kernels, work, of_stage(Stage::Custom).0.workgroups()?))
            .transpose()?;
        let pieces = (Stage::ALL.into_iter())
            .map(|stage| {
                let (grid, reached) = of_stage(stage);
                let ranges: Vec<_> = match stage {
                    Stage::Dq => {
                        chunks.iter().map(|c| (c.rows.clone(), c.params(params))).collect()
                    }
                    Stage::DkDv => {
                        chunks.iter().map(|c| (c.columns.clone(), c.params(params))).collect()
                    }
                    Stage::PagesDk | Stage::PagesDv => {
                        vec![(0..grid.workgroups()?, params_of_pool)]
                    }
                    Stage::Custom => custom.as_ref().map_or_else(Vec::new, |c| c.cells(params)),
                    Stage::CustomSums => custom.as_ref().map_or_else(Vec::new, |c| c.sums(params)),
                    _ => vec![(0..grid.workgroups()?, params)],
                };
                let dispatches = match stage {
                    Stage::Dq => config.dq_dispatches(),
                    Stage::DkDv | Stage::SecondDkDv => config.dkdv_dispatches(),
                    Stage::Terms
                    | Stage::Bias
                    | Stage::Sinks
                    | Stage::Slopes
                    | Stage::Custom
                    | Stage::CustomSums
                    | Stage::PagesDk
                    | Stage::PagesDv => 1,
                };
                let windows = match stage {
                    Stage::Terms => &of_terms,
                    Stage::Dq => &of_dq,
                    Stage::DkDv | Stage::SecondDkDv => &of_dkdv,
                    _ => &nothing,
                };
                let shares: Vec<_> = (ranges.iter())
                    .flat_map(|range| (0..dispatches as u32).map(move |slice| (range, slice)))
                    .map(|((workgroups, params), slice)| Share {
                        grid,
                        reached: reached.clone(),
                        workgroups: workgroups.clone(),
                        params: Params { slice, ..*params },
                    })
                    .flat_map(|whole| windows::shares(whole, windows))
                    .collect();
                Pieces::of_shares(kernels, &shares)
            })
            .collect::<Result<Vec<_>>>()?;
        let order = order_of(&pieces, chunks.len());
        let makers = rows_mask.work().chain(columns_mask.iter().flat_map(MaskTables::work));
        let work_of: Vec<Vec<u64>> = pieces.iter().map(|pieces| pieces.work().collect()).collect();
        let work = order.iter().map(|&(stage, piece)| work_of[stage as usize][piece]);
        let schedule = Schedule::new(makers.chain(work), kernels.traits().most_work);
        let most_rows = chunks.iter().map(|chunk| chunk.rows.len()).max();
        let cells = crate::device::buffer(
            kernels.device(),
            "weights and gradients of scores",
            (most_rows.unwrap_or(0) as u64 * cell_bytes(problem, &config)).max(4),
            wgpu::BufferUsages::STORAGE,
        )?;
        let row_terms = crate::device::buffer(
            kernels.device(),
            "lse and delta",
            terms_bytes,
            wgpu::BufferUsages::STORAGE,
        )?;
        let apart = match problem.shape.sequences.kv {
            KeySequences::Paged { .. } => {
                let apart = |name, placed: &Placed| {
                    let (bytes, usage) = (placed.bytes.max(4), wgpu::BufferUsages::STORAGE);
                    crate::device::buffer(kernels.device(), name, bytes, usage)
                };
                let [dk, dv] = ["dk of each sequence", "dv of each sequence"];
                Some([apart(dk, &made.dk)?, apart(dv, &made.dv)?])
            }
            _ => None,
        };
        let plan = Self {
            kernels: kernels.clone(),
            problem: Arc::clone(problem),
            gradients: *gradients,
            kernel,
            config,
            score,
            rows_mask,
            columns_mask,
            pieces,
            order,
            schedule,
            row_terms,
            cells,
            apart,
            custom,
            empty: empty_buffer(kernels)?,
            partial_keys: options.partial_keys,
            kernels_of_passes: Mutex::default(),
        };
        log::debug!("backward kernel `{kernel}`, {config:?}");
        // What most callers want is compiled now, the rest when it is asked for.
        for pass in [
            Some(BackwardPass::Terms { has_dlse: false }),
            Some(BackwardPass::Dq { dq: true, normalizes: !plan.partial_keys, slopes: false }),
            plan.columns(Stage::DkDv, true, true),
            plan.columns(Stage::SecondDkDv, true, true),
        ]
        .into_iter()
        .flatten()
        {
            plan.kernel_of(pass)?;
        }
        Ok(plan)
    }

    /// The kernels that were chosen.
    pub const fn kernel(&self) -> BackwardKernel {
        self.kernel
    }

    /// What the plan holds on the device beyond the caller's tensors, in bytes: the mask's data and 16 bytes per row; on
    /// CPUs weights and gradients of scores for a chunk of rows, at most 64 MiB whatever the lengths are; and for a paged
    /// cache dk and dv of each sequence in f32, `[batch, num_kv_heads, seq_len_kv, dim]`. Where a score function's buffers have
    /// gradients, at most 64 MiB of their sums: 64 bytes for each element and workgroup.
    pub fn scratch_bytes(&self) -> u64 {
        let masks = [Some(&self.rows_mask), self.columns_mask.as_ref()];
        let masks: u64 = masks.into_iter().flatten().map(MaskTables::bytes).sum();
        let blocks: u64 = self.pieces.iter().map(Pieces::bytes).sum();
        let apart: u64 = self.apart.iter().flatten().map(wgpu::Buffer::size).sum();
        let custom = self.custom.as_ref().map_or(0, |custom| custom.shares.size());
        let own = self.row_terms.size() + self.cells.size() + self.empty.size() + custom;
        own + masks + blocks + apart
    }

    /// In how many submissions [`BackwardPlan::encode_submission`] records the work: 1 where it's short.
    pub const fn submissions(&self) -> usize {
        self.schedule.count()
    }

    /// Records one of [`BackwardPlan::submissions`], for a command buffer of its own. All of them, in order, over the same buffers, do what
    /// [`BackwardPlan::encode`] does, to the bit: see [`crate::AttentionPlan::encode_submission`].
    ///
    /// # Errors
    /// As [`BackwardPlan::encode`]; and where there's no such submission.
    pub fn encode_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BackwardBuffers<'_>,
        submission: usize,
    ) -> Result<()> {
        self.record(encoder, buffers, true, self.schedule.steps(submission)?)
    }

    /// Records the gradients of the problem over these buffers.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BackwardBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, true, self.schedule.all())
    }

    /// As [`BackwardPlan::encode`], with the mask's data and tables as the last `encode` of this plan left them.
    /// Of `buffers.aux` only the bias is read.
    ///
    /// # Errors
    /// As [`BackwardPlan::encode`].
    pub fn encode_reusing_mask(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BackwardBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, false, self.schedule.all())
    }

    /// Lets go of the caller's buffers: see [`crate::AttentionPlan::forget_buffers`].
    pub fn forget_buffers(&self) {
        let kept = self.kernels_of_passes.lock().unwrap_or_else(PoisonError::into_inner);
        kept.values().for_each(|kernel| kernel.bind_groups.forget());
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BackwardBuffers<'_>,
        make_mask: bool,
        steps: Range<usize>,
    ) -> Result<()> {
        let operands = Operands::new(self, buffers)?;
        let rows_data = match make_mask {
            true => self.rows_mask.operands(&buffers.aux)?,
            false => Vec::new(),
        };
        let mut inputs = operands.inputs();
        inputs.extend(&rows_data);
        check_outputs_apart(&inputs, &operands.outputs())?;

        for operand in operands.inputs().iter().chain(&operands.outputs()) {
            operand.check_storage(&self.kernels)?;
        }

        let rows_tables = 0..self.rows_mask.steps();
        let columns = self.columns_mask.as_ref().map_or(0, MaskTables::steps);
        let columns_tables = rows_tables.end..rows_tables.end + columns;
        let own = steps_within(&steps, columns_tables.end..columns_tables.end + self.order.len());
        let mut work = Vec::with_capacity(own.len());
        for &(stage, piece) in &self.order[own] {
            let pieces = &self.pieces[stage as usize];
            let dcustom = match stage {
                // Of each chunk, one buffer after the other.
                Stage::CustomSums => {
                    let buffer = pieces.chunk_of(piece) % operands.dcustom.len();
                    let Some(wanted) = operands.dcustom[buffer] else { continue };
                    Some(wanted)
                }
                _ => None,
            };
            let Some(pass) = self.pass(stage, buffers) else { continue };
            let kernel = self.kernel_of(pass)?;
            let source = |binding| {
                Ok(match (binding, dcustom) {
                    (Binding::Dcustom, Some(dcustom)) => Source::Whole(dcustom.whole()),
                    _ => self.source(pass, binding, &operands),
                })
            };
            let resources = pieces.resources(piece, &kernel.bindings, &self.empty, source)?;
            let bind_group = kernel.bind_groups.get(&self.kernels, &kernel.pipeline, &resources);
            work.push((pieces, piece, kernel, bind_group));
        }
        if make_mask {
            if steps.start == 0 {
                self.rows_mask.copy(encoder, &rows_data);
            }
            self.rows_mask.make(encoder, steps_within(&steps, rows_tables));
            if let Some(mask) = &self.columns_mask {
                if steps.start == 0 {
                    mask.copy(encoder, &rows_data);
                }
                mask.make(encoder, steps_within(&steps, columns_tables));
            }
        }
        if work.is_empty() {
            return Ok(());
        }
        let mut pass = begin_pass(encoder, "attention backward");
        for (pieces, piece, kernel, bind_group) in &work {
            pieces.encode(*piece, &mut pass, &kernel.pipeline, bind_group);
        }
        Ok(())
    }

    /// The kernel of a stage, if what is asked for needs it.
    fn pass(&self, stage: Stage, buffers: &BackwardBuffers<'_>) -> Option<BackwardPass> {
        let wanted = &buffers.gradients;
        match stage {
            Stage::Terms => Some(BackwardPass::Terms { has_dlse: buffers.dlse.is_some() }),
            // Whatever is asked for, it is this one that says what each row's weights add up to.
            Stage::Dq => {
                let (dq, normalizes) = (wanted.dq.is_some(), !self.partial_keys);
                let slopes = wanted.dalibi_slopes.is_some();
                let cells =
                    self.config.form.has_cells() && (wanted.dk.is_some() || wanted.dv.is_some());
                (dq || normalizes || cells || slopes).then_some(BackwardPass::Dq {
                    dq,
                    normalizes,
                    slopes,
                })
            }
            Stage::DkDv | Stage::SecondDkDv => {
                self.columns(stage, wanted.dk.is_some(), wanted.dv.is_some())
            }
            Stage::Bias => wanted.dbias.map(|_| BackwardPass::Bias {
                shared_by_rows: self.problem.data.bias.broadcast_q,
                shared_by_keys: self.problem.data.bias.broadcast_kv,
            }),
            Stage::Sinks => wanted.dsinks.map(|_| BackwardPass::Sinks),
            Stage::Custom => (self.custom.as_ref())
                .filter(|_| !wanted.dcustom.is_empty())
                .map(|custom| BackwardPass::Custom { rows: custom.work.rows }),
            Stage::CustomSums => Some(BackwardPass::CustomSums),
            Stage::PagesDk => self.pages(wanted.dk.is_some(), false),
            Stage::PagesDv => self.pages(wanted.dv.is_some(), true),
            Stage::Slopes => wanted.dalibi_slopes.map(|_| {
                let sizes = self.problem.sizes_of(AuxTensor::AlibiSlopes).unwrap_or_default();
                BackwardPass::Slopes { of_sequences: sizes.first().is_some_and(|&batch| batch > 1) }
            }),
        }
    }

    /// The kernels for dk and dv: one for both, unless the bias takes the last of 8 bindings or they need too many registers.
    fn columns(&self, stage: Stage, dk: bool, dv: bool) -> Option<BackwardPass> {
        let apart = dk && dv && (self.score.bias || self.config.form.makes_apart());
        match (stage, apart) {
            (Stage::SecondDkDv, true) => Some(BackwardPass::DkDv { dk: false, dv: true }),
            (Stage::SecondDkDv, false) => None,
            (_, true) => Some(BackwardPass::DkDv { dk: true, dv: false }),
            (_, false) => (dk || dv).then_some(BackwardPass::DkDv { dk, dv }),
        }
    }

    /// The kernel that makes a pool's dk or dv of those of each sequence, where there is a pool.
    fn pages(&self, wanted: bool, values: bool) -> Option<BackwardPass> {
        let GradientTensors { dtypes, strides, .. } = &self.gradients;
        let access = backward_row_format(&self.problem, strides).access;
        let dtype = if values { dtypes.dv } else { dtypes.dk };
        (wanted && self.apart.is_some()).then_some(BackwardPass::Pages { values, dtype, access })
    }

    fn key(&self, pass: BackwardPass) -> KernelKey {
        let (score, mask) = match pass {
            // The mask and the scores play no part in these, so that all masks share them.
            BackwardPass::Terms { .. }
            | BackwardPass::Sinks
            | BackwardPass::Slopes { .. }
            | BackwardPass::CustomSums
            | BackwardPass::Pages { .. } => (
                ScoreText::default(),
                Arc::new(MaskText::new(&Mask::All, self.problem.shape.sequences.forms())),
            ),
            _ => (self.score.clone(), Arc::clone(&self.rows_mask.text)),
        };
        KernelKey::Backward { pass, config: self.config, score, mask }
    }

    /// The kernel of a pass, compiled if it's the first time that it is asked for.
    fn kernel_of(&self, pass: BackwardPass) -> Result<Arc<PassKernel>> {
        let kept = &self.kernels_of_passes;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kept.get(&pass) {
            return Ok(Arc::clone(kernel));
        }
        let key = self.key(pass);
        let bindings = key.bindings();
        let pipeline = self.kernels.pipeline(key)?;
        let bind_groups = BindGroups::default();
        let kernel = Arc::new(PassKernel { pipeline, bindings, bind_groups });
        kept.insert(pass, Arc::clone(&kernel));
        Ok(kernel)
    }

    /// What a kernel's binding is bound to.
    fn source<'a>(
        &'a self,
        pass: BackwardPass,
        binding: Binding,
        operands: &Operands<'a>,
    ) -> Source<'a> {
        if let Some([dk, dv]) = &self.apart {
            let buffer = match (pass, binding) {
                (BackwardPass::DkDv { .. }, Binding::Dk)
                | (BackwardPass::Pages { values: false, .. }, Binding::KeyGradients) => Some(dk),
                (BackwardPass::DkDv { .. }, Binding::Dv)
                | (BackwardPass::Pages { values: true, .. }, Binding::KeyGradients) => Some(dv),
                _ => None,
            };
            if let Some(buffer) = buffer {
                let (name, slice) = ("gradients of each sequence's keys", buffer.slice(..));
                return Source::Window(Operand { name, slice, bytes: buffer.size() });
            }
        }
        let operand = match binding {
            Binding::RowTermsOut | Binding::RowTerms => {
                let bytes = self.row_terms.size();
                let slice = self.row_terms.slice(..);
                Some(Operand { name: "lse and delta", slice, bytes })
            }
            Binding::CellsOut | Binding::Cells => {
                return Source::Whole(self.cells.as_entire_binding());
            }
            Binding::CustomShares | Binding::CustomSharesIn => {
                let shares = self.custom.as_ref().map_or(&self.empty, |custom| &custom.shares);
                return Source::Whole(shares.as_entire_binding());
            }
            Binding::Q => Some(operands.q),
            Binding::K => Some(operands.k),
            Binding::V => Some(operands.v),
            Binding::OIn => Some(operands.o),
            Binding::LseIn => Some(operands.lse),
            Binding::Dout => Some(operands.dout),
            Binding::Dlse => operands.dlse,
            Binding::Bias => operands.bias,
            Binding::Dq => operands.dq,
            Binding::Dk => operands.dk,
            Binding::Dv => operands.dv,
            Binding::Dbias => operands.dbias,
            Binding::Dsinks => operands.dsinks,
            Binding::DalibiSlopes => operands.dalibi_slopes,
            _ => {
                let mask = match pass {
                    BackwardPass::DkDv { .. } => self.columns_mask.as_ref(),
                    _ => None,
                };
                let mask = mask.unwrap_or(&self.rows_mask);
                return Source::Whole(mask.buffer.as_entire_binding());
            }
        };
        match operand {
            Some(operand) => Source::Window(operand),
            None => Source::Whole(self.empty.as_entire_binding()),
        }
    }
}
