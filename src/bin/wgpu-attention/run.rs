//! `run`: attention over the tensors of a file.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::function;
use anyhow::Context as _;
use clap::ValueEnum;
use indicatif::ProgressBar;
use wgpu_attention::files::{Operands, TensorFile, TensorWriter};
use wgpu_attention::mask::Evaluator;
use wgpu_attention::plan::{BackwardOptions, PlanOptions, ScoreTensor};
use wgpu_attention::{
    AttentionPlan, AuxData, AuxTensor, Output, Problem, RunOptions, ScoreModifiers, Session,
    Upstream,
};

/// Run attention over the q, k and v of a file, and write what comes out to another.
///
/// IN holds q, k, v (f32, f16 or bf16) and what the mask names. Where it holds bias (f32, broadcasts to [batch, heads, seq_len_q,
/// seq_len_kv]), alibi_slopes (f32 [heads]) or sinks (f32 [heads]), they are applied: scale, softcap, bias, ALiBi, mask,
/// softmax with sinks. Where it holds q_starts and kv_starts (i32 [batch + 1], cu_seqlens), q_lengths, kv_lengths or
/// block_tables, the sequences are packed, left-padded, cached or in blocks. OUT gets the outputs by their names: o in the layout and type of q, the others f32:
/// lse [batch, heads, seq_len_q], gradients as what they are gradients of, the others [batch, heads, seq_len_q,
/// seq_len_kv]. It is written whole, or not at all.
///
/// For gradients IN also holds dout, the loss's gradient with respect to o, and dlse [batch, heads, seq_len_q], where the
/// loss uses lse.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The file with q, k, v and what the mask names.
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,

    /// The file for the outputs.
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,

    /// The mask, as below; all unless given.
    #[arg(long, value_name = "TEXT")]
    mask: Option<String>,

    /// What scores are multiplied with; 1/sqrt(head_dim) unless given.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    scale: Option<f32>,

    /// Bounds scores to this before the bias: softcap * tanh(score / softcap).
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    softcap: Option<f32>,

    /// A file with a WGSL function `keep`, which the mask calls `wgsl`; alone, `wgsl` is the mask.
    #[arg(long, value_name = "FILE")]
    wgsl_mask: Option<PathBuf>,

    /// A file with a WGSL function that scores go through last before the mask:
    /// fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32.
    #[arg(long, value_name = "FILE")]
    wgsl_score: Option<PathBuf>,

    /// How q, k, v and o lie.
    #[arg(long, value_enum, default_value_t)]
    layout: crate::LayoutName,

    /// What to write, separated by commas.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',', default_value = "o")]
    outputs: Vec<OutputName>,

    /// The token id of padding; `pad_id` of the file's metadata unless given.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pad_id: Option<i32>,

    #[command(flatten)]
    device: crate::Device,

    #[command(flatten)]
    kernel: crate::Kernel,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention run in.safetensors --out out.safetensors
  wgpu-attention run in.safetensors --mask key_lengths --outputs o,lse,weights --out out.safetensors
  wgpu-attention run in.safetensors --mask causal --outputs dq,dk,dv --out out.safetensors
  wgpu-attention run in.safetensors --mask 'causal & token_padding' --pad-id 0 --layout bshd --out out.safetensors
  wgpu-attention run in.safetensors --mask 'causal & wgsl' --wgsl-mask keep.wgsl --out out.safetensors";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum OutputName {
    /// softmax(masked scores) v
    O,
    /// The logarithm of each row's sum of exp(masked score)
    Lse,
    /// scale * q k^T
    Scores,
    /// The scores where the mask keeps, -inf elsewhere
    MaskedScores,
    /// softmax(masked scores)
    Weights,
    /// The loss's gradient with respect to q
    Dq,
    /// The loss's gradient with respect to k
    Dk,
    /// The loss's gradient with respect to v
    Dv,
    /// The loss's gradient with respect to the bias
    Dbias,
    /// The loss's gradient with respect to the sinks
    Dsinks,
}

impl OutputName {
    const fn tensor(self) -> Option<ScoreTensor> {
        match self {
            Self::O | Self::Lse => None,
            Self::Dq | Self::Dk | Self::Dv | Self::Dbias | Self::Dsinks => None,
            Self::Scores => Some(ScoreTensor::Scores),
            Self::MaskedScores => Some(ScoreTensor::MaskedScores),
            Self::Weights => Some(ScoreTensor::Weights),
        }
    }

    /// Of a gradient: its name, and the name of what it is a gradient of.
    const fn gradient(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Dq => Some(["dq", "q"]),
            Self::Dk => Some(["dk", "k"]),
            Self::Dv => Some(["dv", "v"]),
            Self::Dbias => Some(["dbias", "bias"]),
            Self::Dsinks => Some(["dsinks", "sinks"]),
            _ => None,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let kernel = arguments.kernel.parse()?;
    let progress = Progress::new();

    progress.step("reading");
    let file = TensorFile::open(&arguments.input)?;
    let operands = file.operands(arguments.layout.into())?;
    let (problem, data) = problem(arguments, &file, &operands)?;

    progress.step("opening the device");
    let attention = arguments.device.open()?;
    let outputs = wanted(&arguments.outputs, kernel);
    progress.step("compiling");
    let started = Instant::now();
    // It says what is chosen and compiles it, so that the call below finds the kernel ready.
    let plan =
        AttentionPlan::new(attention.kernels(), &problem, &PlanOptions::default().kernel(kernel))?;
    progress.step("computing");
    let output = attention.run_blocking(&problem, &operands.inputs(&data), &outputs)?;
    let gradients = gradients(&arguments.outputs, &file, &operands, &attention, &problem, &data)?;
    let time = started.elapsed();

    progress.step("writing");
    let writer = collect(&arguments.outputs, &operands, &outputs, &output);
    let writer = gradients.iter().fold(writer, |writer, gradient| {
        writer.f32(gradient.name, &gradient.dims, &gradient.values)
    });
    writer.save(&arguments.out)?;
    progress.done();
    let device = attention.kernels().device().adapter_info().name;
    let summary = summary(&problem, &plan, &device, time);
    crate::print(|out| writeln!(out, "{}: {summary}", arguments.out.display()))
}

/// The problem, and the data that its mask and its scores read.
fn problem(
    arguments: &Arguments,
    file: &TensorFile,
    operands: &Operands,
) -> anyhow::Result<(Problem, AuxData)> {
    let read = |path: &PathBuf| function::read(path, Some(file));
    let keep = arguments.wgsl_mask.as_ref().map(read).transpose()?;
    let score_mod = arguments.wgsl_score.as_ref().map(read).transpose()?;
    let otherwise = if keep.is_some() { "wgsl" } else { "all" };
    let mask = function::mask(arguments.mask.as_deref().unwrap_or(otherwise), keep.as_ref())?;

    let mut problem = operands.problem(mask.clone()).score(score(file, arguments.softcap));
    let mut data = file.input_data(&problem, arguments.pad_id)?;
    for function in keep.iter().chain(&score_mod) {
        data = file.custom_data(function, data)?;
    }
    if keep.is_none() {
        // Lengths that are too long are found before anything is compiled.
        Evaluator::new(&mask, &data, &operands.shape)?;
    }
    if let Some(function) = score_mod {
        problem = problem.score_mod(function);
    }
    if let Some(scale) = arguments.scale {
        problem = problem.scale(scale);
    }
    Ok((problem.aux_shape(data.shape()), data))
}

/// What is done to the scores: what is given, and what the file has data for.
fn score(file: &TensorFile, softcap: Option<f32>) -> ScoreModifiers {
    let has = |input: AuxTensor| file.dims(&input.name()).is_some();
    let mut score = ScoreModifiers::default()
        .bias(has(AuxTensor::Bias))
        .alibi(has(AuxTensor::AlibiSlopes))
        .sinks(has(AuxTensor::Sinks));
    score.softcap = softcap;
    score
}

/// A gradient to be written.
struct Gradient {
    name: &'static str,
    dims: Vec<usize>,
    values: Vec<f32>,
}

/// The gradients that are asked for, each once.
fn gradients(
    names: &[OutputName],
    file: &TensorFile,
    operands: &Operands,
    attention: &Session,
    problem: &Problem,
    data: &AuxData,
) -> anyhow::Result<Vec<Gradient>> {
    let mut wanted: Vec<[&'static str; 2]> =
        names.iter().filter_map(|name| name.gradient()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut dims = Vec::new();
    for [name, of] in &wanted {
        let found = file.dims(of);
        dims.push(found.with_context(|| format!("{name}: the file has no {of}"))?.to_vec());
    }
    if wanted.is_empty() {
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
    let values = |name: &str| match name {
        "dq" => found.dq.clone(),
        "dk" => found.dk.clone(),
        "dv" => found.dv.clone(),
        "dbias" => found.dbias.clone(),
        _ => found.dsinks.clone(),
    };
    let gradient =
        |(&[name, _], dims): (&[&'static str; 2], _)| Gradient { name, dims, values: values(name) };
    Ok(wanted.iter().zip(dims).map(gradient).collect())
}

/// What is asked of the library, each once.
fn wanted(
    names: &[OutputName],
    kernel: Option<wgpu_attention::kernel::ForwardKernel>,
) -> RunOptions {
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
) -> TensorWriter {
    let shape = &operands.shape;
    let cells = [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv];
    let mut writer = TensorWriter::new();
    if names.contains(&OutputName::O) {
        writer = writer.floats("o", &operands.o_dims(), &output.o, operands.dtypes.o);
    }
    if outputs.lse {
        writer = writer.f32("lse", &operands.lse_dims(), &output.lse);
    }
    for (tensor, values) in outputs.tensors.iter().zip(&output.tensors) {
        writer = writer.f32(tensor.name(), &cells, values);
    }
    writer
}

/// What was done, in one line.
fn summary(problem: &Problem, plan: &AttentionPlan, device: &str, time: Duration) -> String {
    let shape = problem.shape();
    format!(
        "batch {}, {} heads over {}, {} queries, {} keys, head_dim {}, head_dim_v {}; on {device}; {}; \
         {:.1} ms with compiling and copying",
        shape.batch,
        shape.num_heads,
        shape.num_kv_heads,
        shape.seq_len_q,
        shape.seq_len_kv,
        shape.head_dim,
        shape.head_dim_v,
        plan.explain(),
        time.as_secs_f64() * 1e3,
    )
}

/// A line on a terminal's stderr about what is being done; nothing elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    fn step(&self, what: &'static str) {
        self.0.set_message(what);
    }

    fn done(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    /// An error's message needs a clean line.
    fn drop(&mut self) {
        self.done();
    }
}
