//! The forward pass.

use std::fmt::Write as _;
use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{MaskBuffers, Operand, check_binding_size, check_outputs_apart};
use super::mask_tables::MaskTables;
use super::{BindGroups, Dispatch, begin_pass, params_buffer};
use crate::error::{Error, Result};
use crate::kernel::key::{ForwardConfig, ForwardKernel, KernelKey, RowAccess};
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source;
use crate::kernel::tiles::{Candidate, candidates, variants};
use crate::mask::emit::{MaskText, TileGrid};
use crate::problem::Problem;
use crate::profile::Advice;

/// Attention for one problem, validated and compiled, to be encoded any number of times.
///
/// A plan owns its pipeline and the mask's buffer (and one for lse). It submits nothing, polls nothing and writes
/// nothing from the host: everything it does is in the commands that [`AttentionPlan::encode`] records.
///
/// ```no_run
/// # fn f(device: &wgpu::Device, queue: &wgpu::Queue, q: wgpu::Buffer, k: wgpu::Buffer, v: wgpu::Buffer, o: wgpu::Buffer) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{AttentionBuffers, AttentionPlan, Kernels, Mask, MaskBuffers, Problem, Shape};
/// let kernels = Kernels::new(device);
/// let problem = Problem::new(Shape::new(1, 8, 128, 64)).mask(Mask::causal());
/// let plan = AttentionPlan::new(&kernels, &problem)?;
/// let mut encoder = device.create_command_encoder(&Default::default());
/// plan.encode(&mut encoder, &AttentionBuffers {
///     q: q.slice(..),
///     k: k.slice(..),
///     v: v.slice(..),
///     mask: MaskBuffers::new(),
///     o: o.slice(..),
///     lse: None,
/// })?;
/// queue.submit([encoder.finish()]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct AttentionPlan {
    kernels: Kernels,
    problem: Problem,
    kernel: ForwardKernel,
    config: ForwardConfig,
    considered: Vec<Candidate>,
    /// What became of the profile, in words.
    advice: String,
    mask: MaskTables,
    dispatch: Dispatch,
    params: wgpu::Buffer,
    /// Where lse goes if nobody asks for it.
    lse: wgpu::Buffer,
    empty: wgpu::Buffer,
    bind_groups: BindGroups,
}

/// The caller's buffers for [`AttentionPlan::encode`]; q, k, v and o are of the problem's types.
///
/// All need `BufferUsages::STORAGE`, offsets that are multiples of `min_storage_buffer_offset_alignment`, and room
/// for the tensor's strides. Outputs need other buffers than inputs.
#[derive(Debug, Clone)]
pub struct AttentionBuffers<'a> {
    /// `[batch, num_heads, seq_len_q, head_dim]`
    pub q: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim]`
    pub k: BufferSlice<'a>,
    /// `[batch, num_kv_heads, seq_len_kv, head_dim_v]`
    pub v: BufferSlice<'a>,
    /// What the mask names.
    pub mask: MaskBuffers<'a>,
    /// `[batch, num_heads, seq_len_q, head_dim_v]`, written
    pub o: BufferSlice<'a>,
    /// f32 `[batch, num_heads, seq_len_q]`, dense, written if given
    pub lse: Option<BufferSlice<'a>>,
}

impl AttentionPlan {
    /// The best kernel for the problem on the device.
    ///
    /// # Errors
    /// Where the problem is invalid, or larger than the device's limits, or the device fails to compile or allocate.
    pub fn new(kernels: &Kernels, problem: &Problem) -> Result<Self> {
        Self::with_kernel(kernels, problem, None)
    }

    /// A given kernel, or the best for `None`.
    ///
    /// # Errors
    /// As [`AttentionPlan::new`], and [`Error::KernelRefused`] where the kernel can't serve the problem here.
    pub fn with_kernel(
        kernels: &Kernels,
        problem: &Problem,
        forced: Option<ForwardKernel>,
    ) -> Result<Self> {
        problem.validate()?;
        let (considered, advice) = considered(kernels, problem);
        let (kernel, config) = choose(&considered, forced)?;
        Self::of(kernels, problem, kernel, config, considered, advice)
    }

    /// Every kernel that serves, with its tiles of the table and with each other variant of them; the table's own choice
    /// comes first.
    #[cfg(feature = "measure")]
    pub(crate) fn all_variants(
        kernels: &Kernels,
        problem: &Problem,
        mut progress: impl FnMut(&str),
    ) -> Result<Vec<Self>> {
        problem.validate()?;
        let considered = candidates(problem, kernels.traits());
        choose(&considered, None)?;
        let mut plans = Vec::new();
        for (kernel, form) in &considered {
            let Ok(config) = form else { continue };
            let others = variants(*config, kernels.traits());
            for config in std::iter::once(*config).chain(others) {
                progress(&format!("{kernel}, {}", config.tiles()));
                let (considered, advice) = (considered.clone(), String::new());
                plans.push(Self::of(kernels, problem, *kernel, config, considered, advice)?);
            }
        }
        Ok(plans)
    }

    fn of(
        kernels: &Kernels,
        problem: &Problem,
        kernel: ForwardKernel,
        config: ForwardConfig,
        considered: Vec<Candidate>,
        advice: String,
    ) -> Result<Self> {
        let mask = MaskTables::new(kernels, problem, Some(config.grid))?;
        let params = Params::new(problem, &mask.layout, config.grid.block_q)?;
        let shape = &problem.shape;
        let lse_bytes = shape.lse_len()?.max(1) as u64 * 4;
        check_binding_size(kernels, "lse", lse_bytes)?;
        let pipeline = kernels.pipeline(KernelKey::Forward {
            config,
            score: problem.score_text(),
            mask: Arc::clone(&mask.text),
        })?;
        let blocks = shape.seq_len_q.div_ceil(config.grid.block_q);
        let dispatch = Dispatch::new(
            kernels,
            pipeline,
            crate::shape::elements("workgroups", &[shape.batch, shape.num_heads, blocks])?,
        )?;
        let device = kernels.device();
        let (params, lse, empty) = crate::device::scoped(device, "allocating a plan", || {
            let lse = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("lse"),
                size: lse_bytes,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            });
            (params_buffer(device, &params), lse, MaskTables::empty_buffer(kernels))
        })?;
        Ok(Self {
            kernels: kernels.clone(),
            problem: problem.clone(),
            kernel,
            config,
            considered,
            advice,
            mask,
            dispatch,
            params,
            lse,
            empty,
            bind_groups: BindGroups::default(),
        })
    }

    /// The kernel that was chosen.
    pub const fn kernel(&self) -> ForwardKernel {
        self.kernel
    }

    /// In words: the kernel, its tiles, and why the others weren't taken.
    pub fn explain(&self) -> String {
        let words = explain(&self.problem, self.kernel, &self.config, &self.considered);
        words + &self.advice
    }

    /// Its tiles, in the words of profiles.
    #[cfg(feature = "measure")]
    pub(crate) fn tiles(&self) -> String {
        self.config.tiles()
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
        self.record(encoder, buffers, true)
    }

    /// As [`AttentionPlan::encode`], with the mask's data and tables as the last `encode` of this plan left them:
    /// what building a tile map costs is paid once where the mask stays the same. Of `buffers.mask` only the bias is read.
    ///
    /// # Errors
    /// As [`AttentionPlan::encode`].
    pub fn encode_reusing_mask(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &AttentionBuffers<'_>,
    ) -> Result<()> {
        self.record(encoder, buffers, false)
    }

    /// Records the copy of one word to `destination` (`BufferUsages::COPY_DST`), which [`AttentionPlan::check_sequences`]
    /// puts into words: whether the lengths, starts and block tables of all `encode`s so far were ones that the problem has
    /// room for. Where they weren't, the kernels took the nearest that are, and touched nothing outside the buffers.
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
    pub fn forget_sequences_check(&self, encoder: &mut wgpu::CommandEncoder) {
        self.mask.clear_fault(encoder);
    }

    fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffers: &AttentionBuffers<'_>,
        make_mask: bool,
    ) -> Result<()> {
        let shape = &self.problem.shape;
        let strides = self.problem.strides();
        let dtypes = self.problem.dtypes;
        let q = Operand::of("q", buffers.q, strides.q.span("q", shape.q_dims())?, dtypes.q);
        let k = Operand::of("k", buffers.k, strides.k.span("k", self.problem.k_dims())?, dtypes.k);
        let v = Operand::of("v", buffers.v, strides.v.span("v", self.problem.v_dims())?, dtypes.v);
        let o = Operand::of("o", buffers.o, strides.o.span("o", shape.o_dims())?, dtypes.o);
        let lse = Operand::new(
            "lse",
            buffers.lse.unwrap_or_else(|| self.lse.slice(..)),
            shape.lse_len()?,
        );
        let mask = match make_mask {
            true => self.mask.operands(&buffers.mask)?,
            false => Vec::new(),
        };
        let bias = Operand::bias(&self.problem, &buffers.mask)?;
        let mut inputs = vec![q, k, v];
        inputs.extend(bias);
        inputs.extend(&mask);
        check_outputs_apart(&inputs, &[o, lse])?;
        let mut resources =
            vec![self.params.as_entire_binding(), self.mask.buffer.as_entire_binding()];
        for operand in [&q, &k, &v, &o, &lse] {
            resources.push(operand.bind(&self.kernels, &self.empty)?);
        }
        if let Some(bias) = bias {
            resources.push(bias.bind(&self.kernels, &self.empty)?);
        }
        if shape.o_len()? == 0 {
            return Ok(());
        }
        if make_mask {
            self.mask.encode(encoder, &mask);
        }
        let bind_group = self.bind_groups.get(&self.kernels, &self.dispatch.pipeline, &resources);
        let mut pass = begin_pass(encoder, "attention");
        self.dispatch.encode(&mut pass, &bind_group);
        Ok(())
    }
}

/// Every kernel, the best first: by the profile where it speaks for the problem, else by the table; and what became of
/// the profile, in words.
fn considered(kernels: &Kernels, problem: &Problem) -> (Vec<Candidate>, String) {
    let mut considered = candidates(problem, kernels.traits());
    let Some((profile, device)) = kernels.profile() else {
        return (considered, String::new());
    };
    let choice = match profile.advice(device, problem) {
        Advice::Use(choice) => choice,
        Advice::Foreign => {
            let words = "; the profile is of another device or driver, so the table decides";
            return (considered, words.to_owned());
        }
        Advice::Silent => {
            let words = "; the profile has nothing like it, so the table decides";
            return (considered, words.to_owned());
        }
    };
    let found = considered.iter().enumerate().find_map(|(at, (kernel, form))| {
        let config = form.as_ref().ok().filter(|_| kernel.name() == choice.best.kernel)?;
        let others = variants(*config, kernels.traits());
        let mut all = std::iter::once(*config).chain(others);
        all.find(|config| config.tiles() == choice.best.tiles).map(|config| (at, *kernel, config))
    });
    let Some((at, kernel, config)) = found else {
        let words = format!(
            "; the profile's {} with {} isn't to be had here, so the table decides",
            choice.best.kernel, choice.best.tiles
        );
        return (considered, words);
    };
    considered[..=at].rotate_right(1);
    considered[0] = (kernel, Ok(config));
    let words = format!(
        "; `{kernel}` with these tiles as the profile measured ({:.3} ms)",
        choice.best.ns as f64 * 1e-6
    );
    (considered, words)
}

/// The forced kernel, or the first that serves.
fn choose(
    considered: &[Candidate],
    forced: Option<ForwardKernel>,
) -> Result<(ForwardKernel, ForwardConfig)> {
    let mut reasons = Vec::new();
    for (kernel, form) in considered {
        match form {
            _ if forced.is_some_and(|forced| forced != *kernel) => {}
            Ok(config) => return Ok((*kernel, *config)),
            Err(reason) => reasons.push((kernel, reason)),
        }
    }
    let names: Vec<_> = reasons.iter().map(|(kernel, _)| kernel.name()).collect();
    let words: Vec<_> = reasons.iter().map(|(_, reason)| reason.as_str()).collect();
    Err(Error::KernelRefused { kernel: names.join(", "), reason: words.join("; ") })
}

impl Kernels {
    /// The whole WGSL text of the forward kernel that serves `problem`, or of the one that is forced.
    ///
    /// # Errors
    /// As [`AttentionPlan::with_kernel`]; nothing is compiled.
    pub fn wgsl(&self, problem: &Problem, forced: Option<ForwardKernel>) -> Result<String> {
        problem.validate()?;
        let (_, config) = choose(&considered(self, problem).0, forced)?;
        let mask = Arc::new(MaskText::new(&problem.mask, problem.shape.sequences.forms()));
        Ok(source::wgsl(&KernelKey::Forward { config, score: problem.score_text(), mask }))
    }

    /// In words, what [`AttentionPlan::new`] would choose for `problem` on this device.
    ///
    /// # Errors
    /// As [`AttentionPlan::new`]; nothing is compiled.
    pub fn explain(&self, problem: &Problem) -> Result<String> {
        problem.validate()?;
        let (considered, advice) = considered(self, problem);
        let (kernel, config) = choose(&considered, None)?;
        Ok(explain(problem, kernel, &config, &considered) + &advice)
    }
}

/// The tiles of the kernel that [`AttentionPlan::new`] chooses.
pub(crate) fn chosen_grid(kernels: &Kernels, problem: &Problem) -> Result<TileGrid> {
    let (_, config) = choose(&considered(kernels, problem).0, None)?;
    Ok(config.grid)
}

/// The choice in words.
fn explain(
    problem: &Problem,
    kernel: ForwardKernel,
    config: &ForwardConfig,
    considered: &[Candidate],
) -> String {
    let grid = config.grid;
    let mut text = format!(
        "kernel `{kernel}`, tiles of {} queries x {} keys, rows read {}; mask `{}`, its tiles classed {}",
        grid.block_q,
        grid.block_kv,
        match config.rows.access {
            RowAccess::Vec4 => "4 elements at a time",
            RowAccess::Scalar => "one by one (a length or stride isn't a multiple of 4)",
        },
        problem.mask,
        if problem.mask.needs_tile_map() {
            "by a map made on the device"
        } else {
            "by closed forms"
        },
    );
    let score = problem.score.words();
    if !score.is_empty() {
        // Writing to a String can't fail.
        let _ = write!(text, "; scores with {}", score.join(", "));
    }
    if problem.score_mod.is_some() {
        text.push_str("; scores through `score_mod`");
    }
    for (other, form) in considered {
        // Writing to a String can't fail.
        let _ = match form {
            Err(reason) => write!(text, "; not `{other}`: {reason}"),
            Ok(_) if *other != kernel => write!(text, "; `{other}` could serve too"),
            Ok(_) => Ok(()),
        };
    }
    text
}
