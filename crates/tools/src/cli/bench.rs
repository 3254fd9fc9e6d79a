//! `bench`: how fast problems run on the device, and which share of its peak that is.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::ProgressBar;
use serde_json::json;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{AttentionPlan, AuxData, Dtype, Mask, Problem, Session, Shape};
use wgpu_attention_tools::files::TensorFile;
use wgpu_attention_tools::measure::{
    Clock, Contender, Effort, Loads, Peaks, Samples, Workload, in_turns,
};
use wgpu_attention_tools::picture::{Bar, Bars};

use crate::places::{self, Place};
use crate::talk::{self, Talk};
use crate::tensors::{self, Names};

/// Time the forward pass on a device, as a share of the device's peak.
///
/// The peaks are measured first, by kernels that only multiply and add f32, or only copy. For problems bound by memory, such as
/// decoding, kernels that only load the problem's k and v run interleaved with its own kernels. The least possible time is
/// that of the operations at the peak of multiply-adds, or of the bytes at the peak of loads, whichever is longer;
/// share_of_peak is this time divided by the measured one. The matrix kernel has no share, since its peak isn't measured. On
/// a CPU adapter, peaks are per core and shares use CPU time, so that other programs don't count.
///
/// Operations: 2 * (head_dim + head_dim_v) per cell that the mask keeps. Bytes: o, and the rows of q, k and v with at least one
/// kept cell. Without --shape, a standard set is timed and drawn.
///
/// Every combination of shapes, masks, types and kernels is timed, the kernels of one problem in interleaved runs.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The sizes: batch, heads, key/value heads, queries, keys, head_dim, and head_dim_v if it differs. Can be repeated.
    #[arg(long = "shape", value_name = "B,H,Hkv,Tq,Tk,D[,Dv]", value_parser = crate::parse_shape)]
    shapes: Vec<Shape>,

    /// The mask; see MASKS below. `all` by default. Can be repeated.
    #[arg(long = "mask", value_name = "TEXT", requires = "shapes")]
    masks: Vec<String>,

    /// The storage type of q, k, v and o; f32 by default. Can be repeated.
    #[arg(long = "dtype", value_enum, value_name = "TYPE")]
    dtypes: Vec<DtypeName>,

    /// The kernel to time, or `all` that can serve; chosen automatically by default. Can be repeated.
    #[arg(long = "kernel", value_name = "NAME", value_parser = kernel_names())]
    kernels: Vec<Kernels>,

    /// The file with the tensors that the masks read.
    #[arg(long, value_name = "FILE.safetensors", requires = "shapes")]
    data: Option<PathBuf>,

    #[command(flatten)]
    names: Names,

    /// The key_lengths, instead of a file.
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', conflicts_with = "data")]
    key_lengths: Option<Vec<i32>>,

    /// The token id of padding; by default, `pad_id` in the file's metadata.
    #[arg(long, value_name = "ID", requires = "data", allow_negative_numbers = true)]
    pad_id: Option<i32>,

    /// Run 3 rounds, instead of 5 to 31 within 10 s.
    #[arg(long)]
    quick: bool,

    /// Print one JSON object per result instead of a table.
    #[arg(long)]
    json: bool,

    /// Draw the results to a .png or .svg file. By default, only the standard set is drawn, to wgpu-attention-bench.png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Write a report to share: JSON lines, the first one about the device.
    #[arg(long, value_name = "FILE.jsonl")]
    report: Option<PathBuf>,

    #[command(flatten)]
    device: crate::Device,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention bench
  wgpu-attention bench --report my-gpu.jsonl
  wgpu-attention bench --shape 1,8,8,1024,1024,64 --shape 1,8,2,1024,1024,128 --mask all --mask causal --dtype f16
  wgpu-attention bench --shape 1,8,8,1024,1024,64 --mask causal --kernel all --json
    {\"device\":\"...\",\"kernel\":\"tiled\",\"ms_median\":1.93,\"ms_min\":1.91,\"cpu_ms\":0.05,\"gflops\":557.1,\
\"share_of_peak\":0.41,...}";

const STANDARD_PLOT: &str = "wgpu-attention-bench.png";

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum DtypeName {
    F32,
    F16,
    Bf16,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::F32,
            DtypeName::F16 => Self::F16,
            DtypeName::Bf16 => Self::Bf16,
        }
    }
}

/// What `--kernel` takes.
#[derive(Debug, Clone, Copy)]
enum Kernels {
    All,
    One(ForwardKernel),
}

fn kernel_names() -> impl TypedValueParser<Value = Kernels> {
    let names = ForwardKernel::ALL.map(ForwardKernel::name);
    PossibleValuesParser::new(names.into_iter().chain(["all"])).try_map(|name| {
        match name.as_str() {
            "all" => Ok(Kernels::All),
            name => name.parse().map(Kernels::One),
        }
    })
}

/// A problem to time.
struct Case {
    problem: Problem,
    mask: String,
    dtype: Dtype,
    data: AuxData,
}

/// What came out for one kernel.
struct Line {
    name: String,
    shape: Shape,
    mask: String,
    dtype: Dtype,
    kernel: ForwardKernel,
    /// Why it was chosen, in words.
    choice: String,
    samples: Samples,
    kept_cells: f64,
    operations: f64,
    /// Bytes per second of k and v, where they were loaded beside the kernel.
    loads: Option<f64>,
    /// Of the time that the kernel took, which the device needs at least; at most 1. `None` where its peak isn't known.
    share_of_peak: Option<f64>,
}

/// What is timed, and where.
struct Bench {
    attention: Session,
    clock: Clock,
    peaks: Peaks,
    effort: Effort,
}

pub(crate) fn run(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    let standard = (arguments.shapes.is_empty() && !arguments.json).then(|| STANDARD_PLOT.into());
    let plot = arguments.plot.clone().or(standard);
    let picture = plot.as_deref().map(|path| Place::picture("--plot", path)).transpose()?;
    let report = arguments.report.as_deref().map(|path| Place::new("--report", path));
    let written: Vec<Place<'_>> = picture.into_iter().chain(report).collect();
    places::check(&written, &[arguments.data.as_deref()])?;
    let kernels = kernels(&arguments.kernels);
    let cases = cases(arguments)?;
    let attention = arguments.device.open(talk)?;
    let progress = talk.steps(cases.len() + 1);
    progress.0.set_message("the device's own rates");
    let clock = Clock::new(attention.device(), attention.queue())?;
    let peaks = Peaks::measure(&clock)?;
    progress.0.inc(1);
    let effort = if arguments.quick { Effort::QUICK } else { Effort::default() };
    let bench = Bench { attention, clock, peaks, effort };

    if !(arguments.json || talk.quiet) {
        progress.0.suspend(|| crate::print(|out| bench.print_heading(out)))?;
    }
    let mut lines = Vec::new();
    for case in &cases {
        for line in bench.time(case, &kernels, &progress.0)? {
            progress.0.suspend(|| {
                crate::print(|out| match arguments.json {
                    true => writeln!(out, "{}", bench.record(&line)),
                    false => line.print(out, talk),
                })
            })?;
            lines.push(line);
        }
        progress.0.inc(1);
    }
    drop(progress);

    if let Some(path) = &arguments.report {
        let text: String = (std::iter::once(about(&bench.attention, &bench.clock, &bench.peaks)))
            .chain(lines.iter().map(|line| bench.record(line)))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &plot {
        bench.bars(&lines).save(path)?;
    }
    if arguments.json || talk.quiet {
        return Ok(());
    }
    crate::print(|out| {
        for path in plot.iter().chain(&arguments.report) {
            writeln!(out, "{}", path.display())?;
        }
        Ok(())
    })
}

/// The kernels that are asked for; `None` is the best one.
fn kernels(asked: &[Kernels]) -> Vec<Option<ForwardKernel>> {
    let kernels = asked.iter().flat_map(|kernels| match kernels {
        Kernels::All => ForwardKernel::ALL.to_vec(),
        Kernels::One(kernel) => vec![*kernel],
    });
    let kernels: Vec<_> = kernels.map(Some).collect();
    if kernels.is_empty() { vec![None] } else { kernels }
}

fn cases(arguments: &Arguments) -> anyhow::Result<Vec<Case>> {
    let dtypes: Vec<Dtype> = match arguments.dtypes.is_empty() {
        true => vec![Dtype::F32],
        false => arguments.dtypes.iter().map(|&name| name.into()).collect(),
    };
    let problems: Vec<(Shape, Mask, AuxData)> = if arguments.shapes.is_empty() {
        standard_set()
    } else {
        let file = arguments.names.open_some(arguments.data.as_deref())?;
        let mut masks: Vec<Mask> =
            arguments.masks.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        if masks.is_empty() {
            masks.push(Mask::All);
        }
        let mut problems = Vec::new();
        for &shape in &arguments.shapes {
            for mask in &masks {
                problems.push((shape, mask.clone(), data(arguments, file.as_ref(), mask, &shape)?));
            }
        }
        problems
    };
    let mut cases = Vec::new();
    for (shape, mask, data) in problems {
        for &dtype in &dtypes {
            let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
            // Bad sizes are found before anything is timed.
            problem.clone().aux_shape(data.shape()).validate()?;
            cases.push(Case { problem, mask: mask.to_string(), dtype, data: data.clone() });
        }
    }
    Ok(cases)
}

/// Short and long sequences, full, causal and padded, grouped heads, and the two usual head sizes; then decoding, of one
/// sequence and of several.
pub(crate) fn standard_set() -> Vec<(Shape, Mask, AuxData)> {
    let self_attention = Shape::new;
    let lengths = AuxData::new().key_lengths([512, 384, 256, 64]);
    let cached = AuxData::new().key_lengths([1024, 700, 300, 64]);
    let none = AuxData::new;
    let causal = Mask::causal;
    vec![
        (self_attention(1, 8, 512, 64), Mask::All, none()),
        (self_attention(1, 8, 512, 64), causal(), none()),
        (self_attention(1, 8, 1024, 64), causal(), none()),
        (self_attention(2, 8, 1024, 64), causal(), none()),
        (self_attention(1, 8, 1024, 128).num_kv_heads(2), causal(), none()),
        (self_attention(1, 4, 4096, 64), causal(), none()),
        (self_attention(4, 8, 512, 64), Mask::KeyLengths, lengths),
        (self_attention(1, 8, 2048, 64), Mask::window(255, 0), none()),
        (self_attention(1, 32, 1, 128).num_kv_heads(8).seq_len_kv(4096), causal(), none()),
        (self_attention(4, 32, 1, 128).num_kv_heads(8).seq_len_kv(1024), Mask::KeyLengths, cached),
    ]
}

/// What a mask reads.
fn data(
    arguments: &Arguments,
    file: Option<&TensorFile>,
    mask: &Mask,
    shape: &Shape,
) -> anyhow::Result<AuxData> {
    match (file, &arguments.key_lengths) {
        (Some(file), _) => (file.mask_data(mask, shape, arguments.pad_id))
            .map_err(|error| tensors::explained(file, error)),
        (None, Some(lengths)) => Ok(AuxData::new().key_lengths(lengths.iter().copied())),
        (None, None) => match mask.aux_tensors().first() {
            None => Ok(AuxData::new()),
            Some(input) => bail!(
                "{input} is required by the mask: give the file that holds it with --data FILE.safetensors, or key_lengths \
                 with --key-lengths"
            ),
        },
    }
}

impl Bench {
    /// Lets the kernels take turns on one problem.
    fn time(
        &self,
        case: &Case,
        kernels: &[Option<ForwardKernel>],
        progress: &ProgressBar,
    ) -> anyhow::Result<Vec<Line>> {
        let name = format!("{} {} {}", sizes(case.problem.shape()), case.mask, case.dtype);
        progress.set_message(name.clone());
        let work = Workload::new(&self.attention, &case.problem, &case.data)?;
        let problem = work.problem();
        let mut plans: Vec<AttentionPlan> = Vec::new();
        let mut refused = None;
        for &kernel in kernels {
            match AttentionPlan::new(
                self.attention.kernels(),
                problem,
                &PlanOptions::default().kernel(kernel),
            ) {
                // `all` and a name may mean the same kernel.
                Ok(plan) if plans.iter().all(|other| other.kernel() != plan.kernel()) => {
                    plans.push(plan);
                }
                Ok(_) => {}
                Err(error) if kernels.len() > 1 => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        if let (true, Some(error)) = (plans.is_empty(), refused) {
            return Err(error.into());
        }
        let records: Vec<_> =
            plans.iter().map(|plan| |encoder: &mut _| work.encode(plan, encoder)).collect();
        let loads = match self.peaks.is_bound_by_memory(work.operations(), work.bytes()) {
            true => Some(work.loads(&self.attention)?),
            false => None,
        };
        let loading = loads.as_ref().map_or_else(Vec::new, Loads::contenders);
        let contenders: Vec<Contender<'_>> = (records.iter().map(|record| record as Contender<'_>))
            .chain(loading.iter().map(|record| record as Contender<'_>))
            .collect();
        let mut samples = in_turns(&self.clock, self.effort, &contenders, |round| {
            progress.set_message(format!("{name}, round {round}"));
        })?;
        let of_loads = samples.split_off(plans.len());
        let rate = loads.as_ref().and_then(|loads| loads.rate(&of_loads));
        // As fast as the device was seen to be.
        let bytes = rate.unwrap_or(0.0).max(self.peaks.bytes);
        let least = Peaks { bytes, ..self.peaks }.least_time(work.operations(), work.bytes());
        let line = |(plan, samples): (&AttentionPlan, Samples)| Line {
            name: name.clone(),
            shape: *problem.shape(),
            mask: case.mask.clone(),
            dtype: case.dtype,
            kernel: plan.kernel(),
            choice: plan.explain(),
            kept_cells: work.kept_cells(),
            operations: work.operations(),
            loads: rate,
            share_of_peak: share_of_peak(plan.kernel(), least, &samples),
            samples,
        };
        Ok(plans.iter().zip(samples).map(line).collect())
    }

    fn record(&self, line: &Line) -> serde_json::Value {
        let ms = |time: std::time::Duration| rounded(time.as_secs_f64() * 1e3);
        json!({
            "device": self.attention.device().adapter_info().name,
            "kernel": line.kernel.name(),
            "shape": crate::sizes(&line.shape),
            "mask": line.mask,
            "dtype": line.dtype.name(),
            "ms_median": ms(line.samples.median()),
            "ms_min": ms(line.samples.least()),
            "cpu_ms": ms(line.samples.cpu()),
            "rounds": line.samples.rounds(),
            "kept_cells": line.kept_cells,
            "gflops": rounded(line.gflops()),
            "share_of_peak": line.share_of_peak.map(rounded),
            "peak_gflops": rounded(self.peaks.operations * 1e-9),
            "copy_gbytes_per_s": rounded(self.peaks.bytes * 1e-9),
            "load_gbytes_per_s": line.loads.map(|loads| rounded(loads * 1e-9)),
        })
    }

    fn print_heading(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "device: {}", self.device_name())?;
        writeln!(out, "times:  {}", self.clock.name())?;
        writeln!(out, "peaks:  {}\n", self.peak_words())?;
        writeln!(
            out,
            "{:<42}{:<14}{:>11}{:>11}{:>11}{:>10}{:>9}{:>8}",
            "batch, heads/kv heads, queries x keys",
            "kernel",
            "median",
            "least",
            "CPU time",
            "GFLOP/s",
            "of peak",
            "rounds"
        )
    }

    fn device_name(&self) -> String {
        let info = self.attention.device().adapter_info();
        format!("{} ({})", info.name, format!("{} {}", info.driver, info.driver_info).trim())
    }

    fn peak_words(&self) -> String {
        let is_cpu = self.attention.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
        format!(
            "{:.1} GFLOP/s of f32 multiply-adds, {:.1} GB/s copied (read and written){}",
            self.peaks.operations * 1e-9,
            self.peaks.bytes * 1e-9,
            if is_cpu { ", per core" } else { "" }
        )
    }

    fn bars(&self, lines: &[Line]) -> Bars {
        let bars = lines.iter().map(|line| {
            let label = format!("{}  {}", line.name, line.kernel);
            let value = format!(
                "{}   {:.2} ms   {:.1} GFLOP/s",
                line.percent(),
                line.samples.median().as_secs_f64() * 1e3,
                line.gflops()
            );
            Bar { label, share: line.share_of_peak.unwrap_or(0.0), value }
        });
        Bars::new("Share of the device's peak")
            .subtitle(self.device_name())
            .subtitle(self.peak_words())
            .bars(bars)
    }
}

/// The first line of a file that is sent in: what the device is, and its own rates.
pub(crate) fn about(session: &Session, clock: &Clock, peaks: &Peaks) -> serde_json::Value {
    let device = session.device();
    let info = device.adapter_info();
    let limits = device.limits();
    json!({
        "report": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "device": info.name,
        "vendor": info.vendor,
        "device_id": info.device,
        "type": format!("{:?}", info.device_type),
        "backend": info.backend.to_string(),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "subgroup_sizes": [info.subgroup_min_size, info.subgroup_max_size],
        "features": device.features().to_string(),
        "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
        "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
        "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "times": clock.name(),
        "peak_gflops": rounded(peaks.operations * 1e-9),
        "copy_gbytes_per_s": rounded(peaks.bytes * 1e-9),
    })
}

/// A record of each problem of the standard set.
pub(crate) fn standard_records(
    session: &Session,
    effort: Effort,
    talk: Talk,
) -> anyhow::Result<serde_json::Value> {
    let clock = Clock::new(session.device(), session.queue())?;
    let peaks = Peaks::measure(&clock)?;
    let bench = Bench { attention: session.clone(), clock, peaks, effort };
    let set = standard_set();
    let progress = talk.steps(set.len());
    let mut records = Vec::new();
    for (shape, mask, data) in set {
        let problem = Problem::new(shape).mask(mask.clone());
        let case = Case { problem, mask: mask.to_string(), dtype: Dtype::F32, data };
        let lines = bench.time(&case, &[None], &progress.0)?;
        records.extend(lines.iter().map(|line| bench.record(line)));
        progress.0.inc(1);
    }
    Ok(records.into())
}

/// The least time over the kernel's own, which can't be shorter: where it seems so, the rates were measured too low.
fn share_of_peak(kernel: ForwardKernel, least: f64, samples: &Samples) -> Option<f64> {
    let share = least / samples.busy().as_secs_f64();
    // Its products are made by other units than those whose rate was measured.
    (kernel != ForwardKernel::Matrix).then_some(share.min(1.0))
}

impl Line {
    fn gflops(&self) -> f64 {
        self.operations / self.samples.median().as_secs_f64() * 1e-9
    }

    fn percent(&self) -> String {
        self.share_of_peak.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
    }

    fn print(&self, out: &mut dyn Write, talk: Talk) -> io::Result<()> {
        let ms = |time: std::time::Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        writeln!(
            out,
            "{:<42}{:<14}{:>11}{:>11}{:>11}{:>10.1}{:>9}{:>8}",
            self.name,
            self.kernel.name(),
            ms(self.samples.median()),
            ms(self.samples.least()),
            ms(self.samples.cpu()),
            self.gflops(),
            self.percent(),
            self.samples.rounds(),
        )?;
        let clauses = talk::clauses(&self.choice).filter(|_| talk.verbose);
        clauses.into_iter().try_for_each(|clause| writeln!(out, "  {clause}"))
    }
}

/// `1, 8/2, 1024 x 1024 x 64`
pub(crate) fn sizes(shape: &Shape) -> String {
    let Shape {
        batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v, ..
    } = shape;
    let dims = match head_dim == head_dim_v {
        true => head_dim.to_string(),
        false => format!("{head_dim}/{head_dim_v}"),
    };
    format!("{batch}, {num_heads}/{num_kv_heads}, {seq_len_q}x{seq_len_kv} D={dims}")
}

/// Four digits: more would be noise.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}
