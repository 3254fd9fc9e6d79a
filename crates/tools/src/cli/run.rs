//! `run`: attention over the tensors of a file.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::mask::{Evaluator, TileGrid};
use wgpu_attention::plan::{BackwardOptions, PlanOptions, ScoreTensor};
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{
    AttentionPlan, AuxData, AuxTensor, Dtype, Output, Problem, RunOptions, ScoreModifiers, Session,
    Upstream,
};
use wgpu_attention_tools::files::{Operands, TensorFile, TensorWriter};

use crate::function;
use crate::places::{self, Place};
use crate::sanitized::Sanitize;
use crate::talk::{self, Talk};
use crate::tensors::{self, Names, Readers};

/// Compute attention over the tensors of a file, and write the results to another file.
///
/// IN holds q, k, v (f32, f16 or bf16) and the tensors that the mask reads. If it holds bias (floats that broadcast to [batch,
/// heads, seq_len_q, seq_len_kv]), alibi_slopes (floats [heads] or [batch, heads]) or sinks (floats [heads]), these are applied,
/// in the order scale, softcap, bias, ALiBi, mask, softmax with sinks. If IN holds q_starts and kv_starts (integers
/// [batch + 1], cu_seqlens), q_lengths, kv_lengths or block_tables, the sequences are packed, left-padded, cached or paged.
/// Tensors of IN that aren't used cause a warning.
///
/// OUT holds the outputs by name: o in the layout and type of q, the others in f32: lse [batch, heads, seq_len_q], gradients in
/// the sizes of their tensors, the others [batch, heads, seq_len_q, seq_len_kv]. It is written completely or not at all.
///
/// For gradients, IN also holds dout, the gradient of the loss with respect to o, and dlse [batch, heads, seq_len_q] if the
/// loss uses lse.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The file with q, k, v and the tensors that the mask reads.
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,

    /// The file for the outputs.
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,

    /// The mask; see MASKS below. `all` by default.
    #[arg(long, value_name = "TEXT")]
    mask: Option<String>,

    /// The factor of the scores; 1/sqrt(head_dim) by default.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    scale: Option<f32>,

    /// The bound of the scores before the bias: softcap * tanh(score / softcap). 0 is no bound.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    softcap: Option<f32>,

    /// The share of the weights that is set to 0, from 0 to below 1; the others are multiplied by 1/(1-P), after the softmax.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    dropout: Option<f32>,

    /// The seed of --dropout. By default, dropout_seed of the file (integers [2], the lower 32 bits first), or 0.
    #[arg(long, value_name = "N", requires = "dropout")]
    seed: Option<u64>,

    /// The file with the user-defined WGSL function `keep` of the mask `wgsl`. Without --mask, the mask is `wgsl`.
    #[arg(long, value_name = "FILE")]
    wgsl_mask: Option<PathBuf>,

    /// The file with a user-defined WGSL function, applied to the scores last before the mask:
    /// fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32.
    #[arg(long, value_name = "FILE")]
    wgsl_score: Option<PathBuf>,

    /// The memory layout of q, k, v and o.
    #[arg(long, value_enum, default_value_t)]
    layout: crate::LayoutName,

    /// The number of query heads, for q, k and v of [batch, seq, heads * dim]. o is written in the same form.
    #[arg(long, value_name = "N", conflicts_with = "layout")]
    heads: Option<usize>,

    /// The number of key/value heads; by default, it follows from the size of k.
    #[arg(long, value_name = "N", requires = "heads")]
    kv_heads: Option<usize>,

    /// The type that k and v are rounded to first, as a cache of it would hold them. i8 has a scale per row, i4 a scale and a zero
    /// point per 32 components. By default, k and v stay as they are.
    #[arg(long, value_enum, value_name = "TYPE")]
    kv_dtype: Option<KvDtype>,

    #[command(flatten)]
    names: Names,

    /// The outputs, separated by commas.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',', default_value = "o")]
    outputs: Vec<OutputName>,

    /// The token id of padding; by default, `pad_id` in the file's metadata.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pad_id: Option<i32>,

    #[command(flatten)]
    device: crate::Device,

    #[command(flatten)]
    sanitize: Sanitize,

    #[command(flatten)]
    kernel: crate::Kernel,

    /// Print the summary as a JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention run in.safetensors --out out.safetensors
  wgpu-attention run in.safetensors --mask key_lengths --outputs o,lse,weights --out out.safetensors
  wgpu-attention run in.safetensors --mask causal --outputs dq,dk,dv --out out.safetensors
  wgpu-attention run in.safetensors --mask causal --dropout 0.1 --seed 42 --outputs o,dq,dk,dv --out out.safetensors
  wgpu-attention run in.safetensors --mask causal --kv-dtype i4 --out out.safetensors
  wgpu-attention run in.safetensors --mask 'causal & token_padding' --pad-id 0 --layout bshd --out out.safetensors
  wgpu-attention run in.safetensors --mask 'causal & key_padding' --heads 12 --out out.safetensors
  wgpu-attention run in.safetensors --tensor bias=attn_mask --out out.safetensors
  wgpu-attention run in.safetensors --mask 'causal & wgsl' --wgsl-mask keep.wgsl --out out.safetensors
  wgpu-attention run small.safetensors --wgsl-score score.wgsl --sanitize --out out.safetensors";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KvDtype {
    F32,
    F16,
    Bf16,
    I8,
    I4,
}

impl From<KvDtype> for Dtype {
    fn from(name: KvDtype) -> Self {
        match name {
            KvDtype::F32 => Self::F32,
            KvDtype::F16 => Self::F16,
            KvDtype::Bf16 => Self::Bf16,
            KvDtype::I8 => Self::I8,
            KvDtype::I4 => Self::I4,
        }
    }
}

/// The same with k and v as a cache of this type holds them.
fn rounded(operands: &Operands, dtype: Dtype) -> Operands {
    let shape = operands.shape;
    // The device has the same numbers in f32, or in the type itself.
    let stored = match dtype {
        Dtype::F16 | Dtype::Bf16 => dtype,
        _ => Dtype::F32,
    };
    let mut rounded = operands.clone();
    rounded.k = dtype.round_rows(&operands.k, shape.head_dim);
    rounded.v = dtype.round_rows(&operands.v, shape.head_dim_v);
    rounded.dtypes = operands.dtypes.k(stored).v(stored);
    rounded
}

/// The root mean square of the differences, in that of the values.
fn difference(values: &[f32], others: &[f32]) -> f64 {
    let squares = |terms: &mut dyn Iterator<Item = f64>| terms.map(|x| x * x).sum::<f64>();
    let whole = squares(&mut values.iter().map(|&x| f64::from(x)));
    let off = squares(&mut values.iter().zip(others).map(|(&x, &y)| f64::from(y) - f64::from(x)));
    if off == 0.0 { 0.0 } else { (off / whole).sqrt() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum OutputName {
    /// softmax(masked scores) v
    O,
    /// The logarithm of the sum of exp(masked score) of each row
    Lse,
    /// scale * q k^T
    Scores,
    /// The scores where the mask keeps, -inf elsewhere
    MaskedScores,
    /// softmax(masked scores), with dropout
    Weights,
    /// The gradient of the loss with respect to q
    Dq,
    /// The gradient of the loss with respect to k
    Dk,
    /// The gradient of the loss with respect to v
    Dv,
    /// The gradient of the loss with respect to the bias
    Dbias,
    /// The gradient of the loss with respect to the sinks
    Dsinks,
    /// The gradient of the loss with respect to the slopes of ALiBi
    DalibiSlopes,
    /// The gradients with respect to what the function of --wgsl-score reads, each as d and the tensor's name; for a tensor
    /// `table`, the file with the function has `table_index` and `table_grad`, too
    Dcustom,
}

impl OutputName {
    const fn tensor(self) -> Option<ScoreTensor> {
        match self {
            Self::O | Self::Lse => None,
            Self::Dq | Self::Dk | Self::Dv => None,
            Self::Dbias | Self::Dsinks | Self::DalibiSlopes | Self::Dcustom => None,
            Self::Scores => Some(ScoreTensor::Scores),
            Self::MaskedScores => Some(ScoreTensor::MaskedScores),
            Self::Weights => Some(ScoreTensor::Weights),
        }
    }

    /// Of a gradient that is one tensor: its name, and the name of what it is a gradient of.
    const fn gradient(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Dq => Some(["dq", "q"]),
            Self::Dk => Some(["dk", "k"]),
            Self::Dv => Some(["dv", "v"]),
            Self::Dbias => Some(["dbias", "bias"]),
            Self::Dsinks => Some(["dsinks", "sinks"]),
            Self::DalibiSlopes => Some(["dalibi_slopes", "alibi_slopes"]),
            _ => None,
        }
    }
}

pub(crate) fn run(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    let functions = [&arguments.wgsl_mask, &arguments.wgsl_score].map(|path| path.as_deref());
    let [wgsl_mask, wgsl_score] = functions;
    let inputs = [Some(arguments.input.as_path()), wgsl_mask, wgsl_score];
    places::check(&[Place::new("--out", &arguments.out).moved()], &inputs)?;
    let kernel = arguments.kernel.kernel;
    let progress = talk.spinner();

    progress.0.set_message("reading");
    let file = arguments.names.open(&arguments.input)?;
    let operands = match arguments.heads {
        Some(heads) => file.merged_operands(heads, arguments.kv_heads),
        None => file.operands(arguments.layout.into()),
    };
    let given = operands.map_err(|error| tensors::explained(&file, error))?;
    let operands = match arguments.kv_dtype {
        Some(dtype) => rounded(&given, dtype.into()),
        None => given.clone(),
    };
    let Prepared { problem, data, mask, unused } = prepare(arguments, &file, &operands)?;
    progress.0.suspend(|| unused.iter().for_each(|line| talk.warn(line)));

    progress.0.set_message("opening the device");
    arguments.sanitize.check_problem(&problem)?;
    let sanitized = arguments.sanitize.device(&[("keep", wgsl_mask), ("score_mod", wgsl_score)])?;
    let attention = match &sanitized {
        Some(sanitized) => sanitized.session.clone(),
        None => arguments.device.open(talk)?,
    };
    let outputs = wanted(&arguments.outputs, kernel);
    progress.0.set_message("compiling");
    let started = Instant::now();
    // It says what is chosen and compiles it, so that the call below finds the kernel ready.
    let plan =
        AttentionPlan::new(attention.kernels(), &problem, &PlanOptions::default().kernel(kernel))?;
    progress.0.set_message("computing");
    let output = attention.run_blocking(&problem, &operands.inputs(&data), &outputs)?;
    let gradients = gradients(&arguments.outputs, &file, &operands, &attention, &problem, &data)?;
    let time = started.elapsed();
    let rounding = match arguments.kv_dtype {
        Some(dtype) => {
            let problem = problem.clone().dtypes(given.dtypes);
            let exact = attention.run_blocking(
                &problem,
                &given.inputs(&data),
                &RunOptions::default().kernel(kernel),
            )?;
            Some(Rounding {
                dtype: dtype.into(),
                k: difference(&given.k, &operands.k),
                v: difference(&given.v, &operands.v),
                o: difference(&exact.o, &output.o),
            })
        }
        None => None,
    };
    if let Some(sanitized) = sanitized {
        progress.0.suspend(|| sanitized.check(talk))?;
    }

    progress.0.set_message("writing");
    let mut written = collect(&arguments.outputs, &operands, &outputs, &output);
    written.extend(gradients);
    let writer = written.iter().fold(TensorWriter::new(), |writer, output| {
        writer.floats(&*output.name, &output.dims, &output.values, output.dtype)
    });
    writer.save(&arguments.out)?;
    drop(progress);
    let (_, grid) =
        attention.kernels().choose(&problem, &PlanOptions::default().kernel(plan.kernel()))?;
    let summary = Summary {
        out: &arguments.out,
        device: attention.device().adapter_info().name,
        problem: &problem,
        mask: &mask,
        plan: &plan,
        grid,
        time,
        written: &written,
        rounding,
        unused: &unused,
    };
    if arguments.json {
        return crate::print(|out| writeln!(out, "{}", summary.record()));
    }
    if talk.quiet {
        return Ok(());
    }
    crate::print(|out| summary.print(out, talk))
}

/// What is to be computed.
struct Prepared {
    problem: Problem,
    /// What its mask and its scores read.
    data: AuxData,
    mask: String,
    /// What the file has besides, in words.
    unused: Vec<String>,
}

fn prepare(
    arguments: &Arguments,
    file: &TensorFile,
    operands: &Operands,
) -> anyhow::Result<Prepared> {
    let read = |path: &PathBuf| function::read(path, Some(file));
    let keep = arguments.wgsl_mask.as_ref().map(read).transpose()?;
    let score_mod = arguments.wgsl_score.as_ref().map(read).transpose()?;
    let otherwise = if keep.is_some() { "wgsl" } else { "all" };
    let mask = function::mask(arguments.mask.as_deref().unwrap_or(otherwise), keep.as_ref())?;

    let mut problem = operands.problem(mask.clone()).score(score(file, arguments.softcap));
    let of_file = file.dims(&AuxTensor::DropoutSeed.name()).is_some() && arguments.seed.is_none();
    if of_file {
        problem = problem.dropout(arguments.dropout.unwrap_or_default());
    }
    let mut data = file
        .input_data(&problem, arguments.pad_id)
        .map_err(|error| tensors::explained(file, error))?;
    let functions: Vec<&WgslFunction> = keep.iter().chain(&score_mod).collect();
    for function in &functions {
        data = file.custom_data(function, data)?;
    }
    if keep.is_none() {
        // Lengths that are too long are found before anything is compiled.
        Evaluator::new(&mask, &data, &operands.shape)?;
    }
    let readers = Readers {
        sources: file.sources(&problem),
        functions: &functions,
        gradients: (arguments.outputs.iter())
            .any(|output| output.gradient().is_some() || *output == OutputName::Dcustom),
    };
    let unused = tensors::unused(file, &readers);
    if let Some(p) = arguments.dropout.filter(|_| !of_file) {
        problem = problem.dropout(p);
        data = data.dropout_seed(arguments.seed.unwrap_or_default());
    }
    if let Some(function) = score_mod {
        problem = problem.score_mod(function);
    }
    if let Some(scale) = arguments.scale {
        problem = problem.scale(scale);
    }
    let problem = problem.aux_shape(data.shape());
    Ok(Prepared { problem, data, mask: mask.to_string(), unused })
}

/// What is done to the scores: what is given, and what the file has data for.
fn score(file: &TensorFile, softcap: Option<f32>) -> ScoreModifiers {
    let has = |input: AuxTensor| file.dims(&input.name()).is_some();
    let mut score = ScoreModifiers::default()
        .bias(has(AuxTensor::Bias))
        .alibi(has(AuxTensor::AlibiSlopes))
        .sinks(has(AuxTensor::Sinks));
    // Configurations of models without one have 0.
    score.softcap = softcap.filter(|&softcap| softcap != 0.0);
    score
}

/// A tensor to be written.
struct Written {
    name: Cow<'static, str>,
    dims: Vec<usize>,
    values: Vec<f32>,
    dtype: Dtype,
}

/// The gradients that are asked for, each once.
fn gradients(
    names: &[OutputName],
    file: &TensorFile,
    operands: &Operands,
    attention: &Session,
    problem: &Problem,
    data: &AuxData,
) -> anyhow::Result<Vec<Written>> {
    let mut wanted: Vec<[&'static str; 2]> =
        names.iter().filter_map(|name| name.gradient()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut dims = Vec::new();
    for [name, of] in &wanted {
        let found = file.dims(of);
        dims.push(found.with_context(|| format!("{name}: the file has no {of}"))?.to_vec());
    }
    let of_function = names.contains(&OutputName::Dcustom);
    if wanted.is_empty() && !of_function {
        return Ok(Vec::new());
    }
    let shape = &operands.shape;
    let read = |name: &str, expected: &[usize]| -> anyhow::Result<Vec<f32>> {
        let tensor = file.read_f32(name)?;
        anyhow::ensure!(
            tensor.dims == expected,
            "{name}: expected {expected:?}, found {:?}",
            tensor.dims
        );
        Ok(tensor.values)
    };
    let dout = read("dout", &operands.o_dims())?;
    let dlse = match file.dims("dlse") {
        Some(_) => Some(read("dlse", &[shape.batch, shape.num_heads, shape.seq_len_q])?),
        None => None,
    };
    let mut upstream = Upstream::new(&dout);
    upstream.dlse = dlse.as_deref();
    let inputs = operands.inputs(data);
    let options = BackwardOptions::default();
    let found = attention.gradients_blocking(problem, &inputs, &upstream, &options)?;
    let gradient = |(&[name, _], dims): (&[&'static str; 2], Vec<usize>)| {
        let values = match name {
            "dq" => found.dq.clone(),
            "dk" => found.dk.clone(),
            "dv" => found.dv.clone(),
            "dbias" => found.dbias.clone(),
            "dalibi_slopes" => found.dalibi_slopes.clone(),
            _ => found.dsinks.clone(),
        };
        Written { name: name.into(), dims, values, dtype: Dtype::F32 }
    };
    let mut written: Vec<_> = wanted.iter().zip(dims).map(gradient).collect();
    anyhow::ensure!(
        !of_function || !found.dcustom.is_empty(),
        "dcustom: no tensor that --wgsl-score reads has a gradient; a tensor `table` has one if the file also has `fn table_index(b: \
         u32, h: u32, q_idx: u32, kv_idx: u32) -> u32` and `fn table_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: \
         u32) -> f32`"
    );
    for (name, values) in found.dcustom.iter().filter(|_| of_function) {
        let dims = file.dims(name).map_or_else(|| vec![values.len()], <[usize]>::to_vec);
        let (name, values) = (format!("d{name}").into(), values.clone());
        written.push(Written { name, dims, values, dtype: Dtype::F32 });
    }
    Ok(written)
}

/// What is asked of the library, each once.
fn wanted(names: &[OutputName], kernel: Option<ForwardKernel>) -> RunOptions {
    let mut tensors: Vec<ScoreTensor> = Vec::new();
    for tensor in names.iter().filter_map(|name| name.tensor()) {
        if !tensors.contains(&tensor) {
            tensors.push(tensor);
        }
    }
    RunOptions::default().lse(names.contains(&OutputName::Lse)).tensors(tensors).kernel(kernel)
}

fn collect(
    names: &[OutputName],
    operands: &Operands,
    outputs: &RunOptions,
    output: &Output,
) -> Vec<Written> {
    let shape = &operands.shape;
    let mut written = Vec::new();
    if names.contains(&OutputName::O) {
        written.push(Written {
            name: "o".into(),
            dims: operands.o_dims(),
            values: output.o.clone(),
            dtype: operands.dtypes.o,
        });
    }
    let f32s = |name: &'static str, dims: &[usize], values: &[f32]| Written {
        name: name.into(),
        dims: dims.to_vec(),
        values: values.to_vec(),
        dtype: Dtype::F32,
    };
    if outputs.lse {
        written.push(f32s("lse", &operands.lse_dims(), &output.lse));
    }
    let cells = [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv];
    for (tensor, values) in outputs.tensors.iter().zip(&output.tensors) {
        written.push(f32s(tensor.name(), &cells, values));
    }
    written
}

/// What `--kv-dtype` changed, as [`difference`]s.
struct Rounding {
    dtype: Dtype,
    k: f64,
    v: f64,
    o: f64,
}

/// What was done.
struct Summary<'a> {
    out: &'a Path,
    device: String,
    problem: &'a Problem,
    mask: &'a str,
    plan: &'a AttentionPlan,
    grid: TileGrid,
    time: Duration,
    written: &'a [Written],
    rounding: Option<Rounding>,
    unused: &'a [String],
}

impl Summary<'_> {
    /// What was written, then what computed it; the long form behind it.
    fn print(&self, out: &mut dyn Write, talk: Talk) -> io::Result<()> {
        let written: Vec<String> = (self.written.iter())
            .map(|Written { name, dims, .. }| format!("{name} {dims:?}"))
            .collect();
        writeln!(out, "{}: {}", self.out.display(), written.join(", "))?;
        let kernel = talk::in_short(self.plan.kernel(), self.grid);
        let ms = self.time.as_secs_f64() * 1e3;
        writeln!(
            out,
            "kernel {kernel}; on {}; {ms:.1} ms with compiling and copying",
            self.device
        )?;
        if let Some(Rounding { dtype, k, v, o }) = self.rounding {
            writeln!(
                out,
                "rounded to {dtype}: k is off by {k:.1e}, v by {v:.1e}, o therefore by {o:.1e} (root mean square, relative)"
            )?;
        }
        if !talk.verbose {
            return Ok(());
        }
        let shape = self.problem.shape();
        writeln!(
            out,
            "  batch {}, {} heads over {}, {} queries, {} keys, head_dim {}, head_dim_v {}",
            shape.batch,
            shape.num_heads,
            shape.num_kv_heads,
            shape.seq_len_q,
            shape.seq_len_kv,
            shape.head_dim,
            shape.head_dim_v,
        )?;
        let choice = self.plan.explain();
        talk::clauses(&choice).try_for_each(|clause| writeln!(out, "  {clause}"))
    }

    fn record(&self) -> serde_json::Value {
        let outputs: serde_json::Map<_, _> = (self.written.iter())
            .map(|Written { name, dims, dtype, .. }| {
                let tensor = serde_json::json!({ "dims": dims, "dtype": dtype.name() });
                (name.to_string(), tensor)
            })
            .collect();
        serde_json::json!({
            "out": self.out.display().to_string(),
            "outputs": outputs,
            "device": self.device,
            "shape": crate::sizes(self.problem.shape()),
            "mask": self.mask,
            "kernel": self.plan.kernel().name(),
            "tiles": [self.grid.block_q, self.grid.block_kv],
            "choice": self.plan.explain(),
            "ms": self.time.as_secs_f64() * 1e3,
            "rounding": self.rounding.as_ref().map(|Rounding { dtype, k, v, o }| {
                serde_json::json!({ "dtype": dtype.name(), "k": k, "v": v, "o": o })
            }),
            "warnings": self.unused,
        })
    }
}
