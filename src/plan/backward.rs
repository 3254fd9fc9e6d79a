//! The backward pass: gradients from what the forward pass kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{BindingResource, BufferSlice};

use super::buffers::{MaskBuffers, Operand, check_binding_size, check_outputs_apart};
use super::mask_tables::MaskTables;
use super::{BindGroups, Dispatch, begin_pass, params_buffer};
use crate::custom::CustomUse;
use crate::dtype::{Dtype, GradientDtypes};
use crate::error::{Error, Result};
use crate::kernel::key::{BackwardConfig, BackwardKernel, BackwardPass, Binding, KernelKey};
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::{BackwardCandidate, backward_candidates};
use crate::mask::emit::MaskText;
use crate::mask::{Mask, MaskInput};
use crate::problem::{GradientStrides, Problem};
use crate::score::ScoreText;
use crate::sequences::KeySequences;
use crate::shape::{Strides, elements};

/// Rows that an invocation of the kernel for dbias has at a time: `TILE_ROWS` of shaders/backward/bias.wgsl.
const BIAS_TILE_ROWS: usize = 8;

/// The gradients of one problem, validated and compiled, to be encoded any number of times.
///
/// It recomputes the weights from q, k and lse: no tensor of `seq_len_q × seq_len_kv` is made, nothing is added
/// atomically, and the same input gives the same bits. Like [`crate::AttentionPlan`] it submits, polls and writes
/// nothing on the host.
///
/// Rows that keep no key have gradients of 0; what a masked position holds reaches no gradient.
///
/// ```no_run
/// # fn f(device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder, [q, k, v, o, lse, dout]: [wgpu::BufferSlice<'_>; 6],
/// #     [dq, dk, dv]: [wgpu::BufferSlice<'_>; 3]) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{BackwardBuffers, BackwardPlan, Kernels, Mask, MaskBuffers, Problem, Shape};
/// let kernels = Kernels::new(device);
/// let problem = Problem::new(Shape::new(1, 8, 128, 64)).mask(Mask::causal());
/// let plan = BackwardPlan::new(&kernels, &problem)?;
/// // o and lse are what the forward pass gave, dout is the loss's gradient with respect to o.
/// let inputs = BackwardBuffers::new(q, k, v, o, lse, dout);
/// plan.encode(encoder, &BackwardBuffers { dq: Some(dq), dk: Some(dk), dv: Some(dv), ..inputs })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BackwardPlan {
    kernels: Kernels,
    problem: Problem,
    strides: GradientStrides,
    kernel: BackwardKernel,
    config: BackwardConfig,
    score: ScoreText,
    rows_mask: MaskTables,
    /// The mask for the kernel that makes dk and dv, where it needs a tile map of its own.
    columns_mask: Option<MaskTables>,
    params: wgpu::Buffer,
    /// lse, delta and norm of each row.
    row_terms: wgpu::Buffer,
    empty: wgpu::Buffer,
    lse_of_more_keys: bool,
    /// What has been asked for so far.
    steps: Mutex<HashMap<BackwardPass, Arc<Step>>>,
}

/// A kernel of the pass, ready to be encoded.
#[derive(Debug)]
struct Step {
    dispatch: Dispatch,
    bind_groups: BindGroups,
}

/// What can be chosen about the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// Whether rows have more keys than the problem: o and lse are of all of them, merged, as where a sequence's keys are
    /// split among devices (ring attention) or a shared prefix lies apart ([`crate::MergePlan`]).
    ///
    /// The rows' gradient is then the sum of what each part gives as dq, and each part's dk, dv and dbias are those of its own
    /// keys; dsinks are the whole rows' in each. A row's weights add up to less than 1 here, and are as exact as `exp` of an
    /// f32 lse: to 2e-6 where it is below 64, to 2.5e-7 below 8. Without this option they are made to add up to 1.
    pub lse_of_more_keys: bool,
}

impl BackwardOptions {
    /// The strides of the backward pass's own tensors, checked.
    pub(crate) fn strides(&self, problem: &Problem) -> Result<GradientStrides> {
        let (own, shape) = (problem.strides(), &problem.shape);
        let strides = GradientStrides {
            dout: self.dout_strides.unwrap_or(own.o),
            dq: self.dq_strides.unwrap_or(own.q),
            dk: self.dk_strides.unwrap_or(own.k),
            dv: self.dv_strides.unwrap_or(own.v),
        };
        strides.dout.span("dout", shape.o_dims())?;
        for (name, strides, dims) in [
            ("dq", strides.dq, shape.q_dims()),
            ("dk", strides.dk, shape.k_dims()),
            ("dv", strides.dv, shape.v_dims()),
        ] {
            strides.span(name, dims)?;
            if strides.overlaps(dims) {
                return Err(Error::operand(
                    format!("{name}'s strides"),
                    "a place of its own for every element",
                    format!("{:?} for {dims:?}", strides.to_array()),
                ));
            }
        }
        Ok(strides)
    }
}

/// The caller's buffers for [`BackwardPlan::encode`]; rules as for [`crate::AttentionBuffers`].
///
/// q, k, v, o and the mask's data are those of the forward pass, dout is of o's type.
#[derive(Debug, Clone)]
pub struct BackwardBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`
    pub v: BufferSlice<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, what the forward pass gave
    pub o: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense, what the forward pass gave
    pub lse: BufferSlice<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, the loss's gradient with respect to o
    pub dout: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense, the loss's gradient with respect to lse, where it uses lse
    pub dlse: Option<BufferSlice<'a>>,
    /// What the mask names.
    pub mask: MaskBuffers<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim]`, written if given
    pub dq: Option<BufferSlice<'a>>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`, written if given
    pub dk: Option<BufferSlice<'a>>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`, written if given
    pub dv: Option<BufferSlice<'a>>,
    /// As the bias, `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`, written if given
    pub dbias: Option<BufferSlice<'a>>,
    /// f32 `[num_heads]`, written if given
    pub dsinks: Option<BufferSlice<'a>>,
}

impl<'a> BackwardBuffers<'a> {
    /// No gradients yet, no dlse and no mask data: the fields say which.
    pub fn new(
        q: BufferSlice<'a>,
        k: BufferSlice<'a>,
        v: BufferSlice<'a>,
        o: BufferSlice<'a>,
        lse: BufferSlice<'a>,
        dout: BufferSlice<'a>,
    ) -> Self {
        Self {
            q,
            k,
            v,
            o,
            lse,
            dout,
            dlse: None,
            mask: MaskBuffers::new(),
            dq: None,
            dk: None,
            dv: None,
            dbias: None,
            dsinks: None,
        }
    }
}

impl BackwardPlan {
    /// The best kernels for the problem on the device, with gradients in f32 that lie as their operands do.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; and where q, k or v repeat elements by strides of 0, which a gradient can't.
    pub fn new(kernels: &Kernels, problem: &Problem) -> Result<Self> {
        Self::with_options(kernels, problem, &BackwardOptions::default())
    }

    /// The same with choices of one's own.
    ///
    /// # Errors
    /// As [`BackwardPlan::new`], and [`Error::KernelRefused`] where a kernel that is forced can't serve the problem here.
    pub fn with_options(
        kernels: &Kernels,
        problem: &Problem,
        options: &BackwardOptions,
    ) -> Result<Self> {
        problem.validate()?;
        if let KeySequences::Paged { .. } = problem.shape.sequences.kv {
            return Err(Error::operand(
                "sequences",
                "keys with a row of their own, where gradients are to be written",
                "a paged cache, whose blocks several sequences may share",
            ));
        }
        let (stored, written) = (problem.dtypes, options.dtypes);
        for (name, dtype) in [
            ("k", stored.k),
            ("v", stored.v),
            ("dq", written.dq),
            ("dk", written.dk),
            ("dv", written.dv),
            ("dbias", written.dbias),
        ] {
            if dtype == Dtype::I8 {
                return Err(Error::operand(name, "f32, f16 or bf16 in a backward pass", dtype));
            }
        }
        let strides = options.strides(problem)?;
        let score = problem.score_text_with_gradient()?;
        if let Some(custom) = &problem.score_mod {
            kernels.check_custom(custom, CustomUse::ScoreGradient)?;
        }
        let considered = backward_candidates(problem, &strides, options.dtypes, kernels.traits());
        let (kernel, config) = choose(&considered, options.kernel)?;
        let rows_mask = MaskTables::new(kernels, problem, Some(config.rows_grid))?;
        let own_map = rows_mask.text.needs_tile_map && config.rows_grid != config.columns_grid;
        let columns_mask = match own_map {
            true => Some(MaskTables::new(kernels, problem, Some(config.columns_grid))?),
            false => None,
        };
        let params = Params::new(problem, &rows_mask.layout, config.rows_grid.block_q)?
            .with_gradients(&strides)?;
        let terms_bytes = problem.shape.lse_len()?.max(1) as u64 * 16;
        check_binding_size(kernels, "lse and delta", terms_bytes)?;
        let device = kernels.device();
        let (params, row_terms, empty) =
            crate::device::scoped(device, "allocating a plan", || {
                let row_terms = device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("lse and delta"),
                    size: terms_bytes,
                    usage: wgpu::BufferUsages::STORAGE,
                    mapped_at_creation: false,
                });
                (params_buffer(device, &params), row_terms, MaskTables::empty_buffer(kernels))
            })?;
        let plan = Self {
            kernels: kernels.clone(),
            problem: problem.clone(),
            strides,
            kernel,
            config,
            score,
            rows_mask,
            columns_mask,
            params,
            row_terms,
            empty,
            lse_of_more_keys: options.lse_of_more_keys,
            steps: Mutex::default(),
        };
        // What most callers want is compiled now, the rest when it is asked for.
        plan.step(BackwardPass::Terms { has_dlse: false })?;
        plan.step(BackwardPass::Rows { dq: true, normalizes: !plan.lse_of_more_keys })?;
        for pass in plan.columns(true, true) {
            plan.step(pass)?;
        }
        Ok(plan)
    }

    /// The kernels that were chosen.
    pub const fn kernel(&self) -> BackwardKernel {
        self.kernel
    }

    /// What the plan holds on the device beyond the caller's tensors, in bytes: the mask's data and 16 bytes per row.
    pub fn scratch_bytes(&self) -> u64 {
        let masks = [Some(&self.rows_mask), self.columns_mask.as_ref()];
        let masks = masks.into_iter().flatten().map(|mask| mask.buffer.size());
        self.row_terms.size() + self.params.size() + self.empty.size() + masks.sum::<u64>()
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
        self.record(encoder, buffers, true)
    }

    /// As [`BackwardPlan::encode`], with the mask's data and tables as the last `encode` of this plan left them.
    /// Of `buffers.mask` only the bias is read.
    ///
    /// # Errors
    /// As [`BackwardPlan::encode`].
    pub fn encode_reusing_mask(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BackwardBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, false)
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &BackwardBuffers<'_>,
        make_mask: bool,
    ) -> Result<()> {
        let operands = Operands::new(self, buffers)?;
        let rows_data = match make_mask {
            true => self.rows_mask.operands(&buffers.mask)?,
            false => Vec::new(),
        };
        let mut inputs = operands.inputs();
        inputs.extend(&rows_data);
        check_outputs_apart(&inputs, &operands.outputs())?;

        let mut work = Vec::new();
        for pass in self.passes(buffers) {
            let step = self.step(pass)?;
            let resources = (self.key(pass).bindings().into_iter())
                .map(|binding| self.resource(pass, binding, &operands))
                .collect::<Result<Vec<_>>>()?;
            let bind_group =
                step.bind_groups.get(&self.kernels, &step.dispatch.pipeline, &resources);
            work.push((step, bind_group));
        }
        if make_mask {
            self.rows_mask.encode(encoder, &rows_data);
            if let Some(mask) = &self.columns_mask {
                mask.encode(encoder, &rows_data);
            }
        }
        let mut pass = begin_pass(encoder, "attention backward");
        for (step, bind_group) in &work {
            step.dispatch.encode(&mut pass, bind_group);
        }
        Ok(())
    }

    /// The kernels that make what is asked for, in order.
    fn passes(&self, buffers: &BackwardBuffers<'_>) -> Vec<BackwardPass> {
        let mut passes = vec![BackwardPass::Terms { has_dlse: buffers.dlse.is_some() }];
        // Whatever is asked for, it is this one that says what each row's weights add up to.
        let (dq, normalizes) = (buffers.dq.is_some(), !self.lse_of_more_keys);
        if dq || normalizes {
            passes.push(BackwardPass::Rows { dq, normalizes });
        }
        passes.extend(self.columns(buffers.dk.is_some(), buffers.dv.is_some()));
        if buffers.dbias.is_some() {
            let shared_by_rows = self.problem.data.bias.broadcast_q;
            passes.push(BackwardPass::Bias { shared_by_rows });
        }
        if buffers.dsinks.is_some() {
            passes.push(BackwardPass::Sinks);
        }
        passes
    }

    /// The kernels for dk and dv: one for both, unless the bias takes the last of 8 bindings.
    fn columns(&self, dk: bool, dv: bool) -> Vec<BackwardPass> {
        match (dk, dv) {
            (false, false) => Vec::new(),
            (true, true) if self.score.bias => vec![
                BackwardPass::Columns { dk: true, dv: false },
                BackwardPass::Columns { dk: false, dv: true },
            ],
            _ => vec![BackwardPass::Columns { dk, dv }],
        }
    }

    fn key(&self, pass: BackwardPass) -> KernelKey {
        let (score, mask) = match pass {
            // The mask and the scores play no part in these, so that all masks share them.
            BackwardPass::Terms { .. } | BackwardPass::Sinks => (
                ScoreText::default(),
                Arc::new(MaskText::new(&Mask::All, self.problem.shape.sequences.forms())),
            ),
            _ => (self.score.clone(), Arc::clone(&self.rows_mask.text)),
        };
        KernelKey::Backward { pass, config: self.config, score, mask }
    }

    /// The kernel, compiled if it's the first time that it is asked for.
    fn step(&self, pass: BackwardPass) -> Result<Arc<Step>> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = steps.get(&pass) {
            return Ok(Arc::clone(step));
        }
        let step =
            Arc::new(Step { dispatch: self.dispatch(pass)?, bind_groups: BindGroups::default() });
        steps.insert(pass, Arc::clone(&step));
        Ok(step)
    }

    fn dispatch(&self, pass: BackwardPass) -> Result<Dispatch> {
        let shape = &self.problem.shape;
        let tile = WORKGROUP_SIZE as usize;
        let workgroups = match pass {
            BackwardPass::Terms { .. } => {
                let sizes = [shape.batch, shape.num_heads, shape.seq_len_q];
                elements("workgroups", &sizes)?.div_ceil(tile)
            }
            BackwardPass::Rows { .. } => {
                let blocks = shape.seq_len_q.div_ceil(self.config.rows_grid.block_q);
                elements("workgroups", &[shape.batch, shape.num_heads, blocks])?
            }
            BackwardPass::Columns { .. } => {
                let blocks = shape.seq_len_kv.div_ceil(self.config.columns_grid.block_kv);
                elements("workgroups", &[shape.batch, shape.num_kv_heads, blocks])?
            }
            BackwardPass::Bias { shared_by_rows } => {
                let [batch, heads, rows] = self.problem.data.bias.dims(shape);
                let blocks = if shared_by_rows { 1 } else { rows.div_ceil(BIAS_TILE_ROWS) };
                let sizes = [batch, heads, blocks, shape.seq_len_kv.div_ceil(tile)];
                elements("workgroups", &sizes)?
            }
            BackwardPass::Sinks => shape.num_heads,
        };
        Dispatch::new(&self.kernels, self.kernels.pipeline(self.key(pass))?, workgroups)
    }

    /// What a kernel's binding is bound to.
    fn resource<'a>(
        &'a self,
        pass: BackwardPass,
        binding: Binding,
        operands: &Operands<'a>,
    ) -> Result<BindingResource<'a>> {
        let operand = match binding {
            Binding::Params => return Ok(self.params.as_entire_binding()),
            Binding::RowTermsOut | Binding::RowTerms => {
                return Ok(self.row_terms.as_entire_binding());
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
            _ => {
                let mask = match pass {
                    BackwardPass::Columns { .. } => self.columns_mask.as_ref(),
                    _ => None,
                };
                return Ok(mask.unwrap_or(&self.rows_mask).buffer.as_entire_binding());
            }
        };
        match operand {
            Some(operand) => operand.bind(&self.kernels, &self.empty),
            None => Ok(self.empty.as_entire_binding()),
        }
    }
}

/// The caller's buffers with their sizes.
struct Operands<'a> {
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    o: Operand<'a>,
    lse: Operand<'a>,
    dout: Operand<'a>,
    dlse: Option<Operand<'a>>,
    bias: Option<Operand<'a>>,
    dq: Option<Operand<'a>>,
    dk: Option<Operand<'a>>,
    dv: Option<Operand<'a>>,
    dbias: Option<Operand<'a>>,
    dsinks: Option<Operand<'a>>,
}

impl<'a> Operands<'a> {
    fn new(plan: &BackwardPlan, buffers: &BackwardBuffers<'a>) -> Result<Self> {
        let (problem, gradients) = (&plan.problem, plan.config.gradients);
        let (shape, own, strides) = (&problem.shape, problem.strides(), &plan.strides);
        let dtypes = problem.dtypes;
        for (name, wanted, used) in [
            ("dbias", buffers.dbias.is_some(), problem.score.bias),
            ("dsinks", buffers.dsinks.is_some(), problem.score.sinks),
        ] {
            if wanted && !used {
                let what = name.trim_start_matches('d');
                return Err(Error::operand(
                    name,
                    format!("none, for the problem has no {what}"),
                    "one",
                ));
            }
        }
        let rows = shape.lse_len()?;
        let of = |name, slice, strides: Strides, dims, dtype| -> Result<Operand<'a>> {
            Ok(Operand::of(name, slice, strides.span(name, dims)?, dtype))
        };
        let gradient = |name, slice: Option<BufferSlice<'a>>, strides, dims, dtype| {
            slice.map(|slice| of(name, slice, strides, dims, dtype)).transpose()
        };
        let bias_words = match problem.score.bias {
            true => MaskInput::Bias.words(shape, &problem.data)?,
            false => 0,
        };
        Ok(Self {
            q: of("q", buffers.q, own.q, shape.q_dims(), dtypes.q)?,
            k: of("k", buffers.k, own.k, shape.k_dims(), dtypes.k)?,
            v: of("v", buffers.v, own.v, shape.v_dims(), dtypes.v)?,
            o: of("o", buffers.o, own.o, shape.o_dims(), dtypes.o)?,
            lse: Operand::new("lse", buffers.lse, rows),
            dout: of("dout", buffers.dout, strides.dout, shape.o_dims(), dtypes.o)?,
            dlse: buffers.dlse.map(|dlse| Operand::new("dlse", dlse, rows)),
            bias: Operand::bias(problem, &buffers.mask)?,
            dq: gradient("dq", buffers.dq, strides.dq, shape.q_dims(), gradients.dq)?,
            dk: gradient("dk", buffers.dk, strides.dk, shape.k_dims(), gradients.dk)?,
            dv: gradient("dv", buffers.dv, strides.dv, shape.v_dims(), gradients.dv)?,
            dbias: (buffers.dbias)
                .map(|dbias| Operand::of("dbias", dbias, bias_words, gradients.dbias)),
            dsinks: buffers.dsinks.map(|dsinks| Operand::new("dsinks", dsinks, shape.num_heads)),
        })
    }

    fn inputs(&self) -> Vec<Operand<'a>> {
        let own = [self.q, self.k, self.v, self.o, self.lse, self.dout];
        own.into_iter().chain(self.dlse).chain(self.bias).collect()
    }

    fn outputs(&self) -> Vec<Operand<'a>> {
        [self.dq, self.dk, self.dv, self.dbias, self.dsinks].into_iter().flatten().collect()
    }
}

/// The forced kernel, or the first that serves.
fn choose(
    considered: &[BackwardCandidate],
    forced: Option<BackwardKernel>,
) -> Result<(BackwardKernel, BackwardConfig)> {
    let mut reasons = Vec::new();
    for (kernel, config) in considered {
        match config {
            _ if forced.is_some_and(|forced| forced != *kernel) => {}
            Ok(config) => return Ok((*kernel, *config)),
            Err(reason) => reasons.push((kernel, reason)),
        }
    }
    let names: Vec<_> = reasons.iter().map(|(kernel, _)| kernel.name()).collect();
    let words: Vec<_> = reasons.iter().map(|(_, reason)| reason.as_str()).collect();
    Err(Error::KernelRefused { kernel: names.join(", "), reason: words.join("; ") })
}
