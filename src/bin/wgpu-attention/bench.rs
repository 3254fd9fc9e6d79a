//! `bench`: how fast problems run on the device, and which share of its peak that is.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use wgpu_attention::files::TensorFile;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::measure::{Clock, Contender, Effort, Peaks, Samples, Workload, in_turns};
use wgpu_attention::picture::{Bar, Bars};
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{AttentionPlan, AuxData, Dtype, Mask, Problem, Session, Shape};

/// Time the forward pass on a device, as a share of what the device can do.
///
/// First the device's own rates are measured, with kernels that only multiply and add f32 or only copy. No kernel is
/// faster than its operations at the one rate or its bytes at the other, whichever takes longer: share_of_peak is that
/// time over the measured one. On a CPU adapter rates are those of a core, and shares go by CPU time, so that other
/// programs don't count. Operations are counted where the mask keeps: 4 * head_dim per kept cell and head. Without
/// --shape, a standard set is timed and drawn.
///
/// Every combination of the shapes, masks, types and kernels is timed; those of one problem take turns.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The sizes: batch, heads, key and value heads, queries, keys, head_dim, and head_dim_v where it differs.
    /// May be given several times.
    #[arg(long = "shape", value_name = "B,H,Hkv,Tq,Tk,D[,Dv]", value_parser = crate::parse_shape)]
    shapes: Vec<Shape>,

    /// The mask, as below. May be given several times; all unless given.
    #[arg(long = "mask", value_name = "TEXT", requires = "shapes")]
    masks: Vec<String>,

    /// How q, k, v and o are stored. May be given several times; f32 unless given.
    #[arg(long = "dtype", value_enum, value_name = "TYPE")]
    dtypes: Vec<DtypeName>,

    /// A kernel (broadcast, tiled), or `all` that serve, instead of the best. May be given several times.
    #[arg(long = "kernel", value_name = "NAME")]
    kernels: Vec<String>,

    /// The file with the tensors that the masks name.
    #[arg(long, value_name = "FILE.safetensors", requires = "shapes")]
    data: Option<PathBuf>,

    /// The key_lengths of the sequences, without a file.
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', conflicts_with = "data")]
    key_lengths: Option<Vec<i32>>,

    /// The token id of padding; `pad_id` of the file's metadata unless given.
    #[arg(long, value_name = "ID", requires = "data", allow_negative_numbers = true)]
    pad_id: Option<i32>,

    /// 3 rounds each, instead of 5 to 31 within 10 s.
    #[arg(long)]
    quick: bool,

    /// Print a JSON object per line instead of a table.
    #[arg(long)]
    json: bool,

    /// Draw the results: a PNG, or an SVG where the name ends in `.svg`. The standard set is drawn to
    /// wgpu-attention-bench.png unless given.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Write a file to send in: JSON lines, the first one about the device.
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
    samples: Samples,
    kept_cells: f64,
    operations: f64,
    share_of_peak: f64,
}

/// What is timed, and where.
struct Bench {
    attention: Session,
    clock: Clock,
    peaks: Peaks,
    effort: Effort,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let kernels = kernels(&arguments.kernels)?;
    let cases = cases(arguments)?;
    let attention = arguments.device.open()?;
    let progress = progress_bar(cases.len() + 1);
    progress.set_message("the device's own rates");
    let clock = Clock::new(attention.device(), attention.queue())?;
    let peaks = Peaks::measure(&clock)?;
    progress.inc(1);
    let effort = if arguments.quick { Effort::QUICK } else { Effort::default() };
    let bench = Bench { attention, clock, peaks, effort };

    if !arguments.json {
        bench.print_heading(&progress)?;
    }
    let mut lines = Vec::new();
    for case in &cases {
        for line in bench.time(case, &kernels, &progress)? {
            progress.suspend(|| {
                crate::print(|out| match arguments.json {
                    true => writeln!(out, "{}", bench.record(&line)),
                    false => line.print(out),
                })
            })?;
            lines.push(line);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();

    if let Some(path) = &arguments.report {
        let text: String = (std::iter::once(bench.about_the_device()))
            .chain(lines.iter().map(|line| bench.record(line)))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    let standard = (arguments.shapes.is_empty() && !arguments.json).then(|| STANDARD_PLOT.into());
    let plot = arguments.plot.clone().or(standard);
    if let Some(path) = &plot {
        bench.bars(&lines).save(path)?;
    }
    if arguments.json {
        return Ok(());
    }
    crate::print(|out| {
        for path in plot.iter().chain(&arguments.report) {
            writeln!(out, "{}", path.display())?;
        }
        Ok(())
    })
}

/// The kernels that are asked for by name; `None` is the best one.
fn kernels(names: &[String]) -> anyhow::Result<Vec<Option<ForwardKernel>>> {
    if names.is_empty() {
        return Ok(vec![None]);
    }
    let mut kernels = Vec::new();
    for name in names {
        match name.as_str() {
            "all" => kernels.extend(ForwardKernel::ALL.map(Some)),
            name => kernels.push(Some(name.parse()?)),
        }
    }
    Ok(kernels)
}

fn cases(arguments: &Arguments) -> anyhow::Result<Vec<Case>> {
    let dtypes: Vec<Dtype> = match arguments.dtypes.is_empty() {
        true => vec![Dtype::F32],
        false => arguments.dtypes.iter().map(|&name| name.into()).collect(),
    };
    let problems: Vec<(Shape, Mask, AuxData)> = if arguments.shapes.is_empty() {
        standard_set()?
    } else {
        let file = arguments.data.as_ref().map(TensorFile::open).transpose()?;
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

/// Short and long sequences, full, causal and padded, grouped heads, and the two usual head sizes.
pub(crate) fn standard_set() -> anyhow::Result<Vec<(Shape, Mask, AuxData)>> {
    let self_attention = Shape::new;
    let lengths = AuxData::new().key_lengths([512, 384, 256, 64]);
    let none = AuxData::new;
    let causal = Mask::causal;
    Ok(vec![
        (self_attention(1, 8, 512, 64), Mask::All, none()),
        (self_attention(1, 8, 512, 64), causal(), none()),
        (self_attention(1, 8, 1024, 64), causal(), none()),
        (self_attention(2, 8, 1024, 64), causal(), none()),
        (self_attention(1, 8, 1024, 128).num_kv_heads(2), causal(), none()),
        (self_attention(1, 4, 4096, 64), causal(), none()),
        (self_attention(4, 8, 512, 64), Mask::KeyLengths, lengths),
        (self_attention(1, 8, 2048, 64), "window(255,0)".parse()?, none()),
    ])
}

/// What a mask reads.
fn data(
    arguments: &Arguments,
    file: Option<&TensorFile>,
    mask: &Mask,
    shape: &Shape,
) -> anyhow::Result<AuxData> {
    match (file, &arguments.key_lengths) {
        (Some(file), _) => Ok(file.mask_data(mask, shape, arguments.pad_id)?),
        (None, Some(lengths)) => Ok(AuxData::new().key_lengths(lengths.iter().copied())),
        (None, None) => match mask.inputs().first() {
            None => Ok(AuxData::new()),
            Some(input) => bail!(
                "the mask names {input}: give the file that holds it with --data FILE.safetensors, or lengths of \
                 keys with --key-lengths"
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
        let contenders: Vec<Contender<'_>> =
            records.iter().map(|record| record as Contender<'_>).collect();
        let samples = in_turns(&self.clock, self.effort, &contenders, |round| {
            progress.set_message(format!("{name}, round {round}"));
        })?;
        let least = self.peaks.least_time(work.operations(), work.bytes());
        let line = |(plan, samples): (&AttentionPlan, Samples)| Line {
            name: name.clone(),
            shape: *problem.shape(),
            mask: case.mask.clone(),
            dtype: case.dtype,
            kernel: plan.kernel(),
            kept_cells: work.kept_cells(),
            operations: work.operations(),
            share_of_peak: least / samples.busy().as_secs_f64(),
            samples,
        };
        Ok(plans.iter().zip(samples).map(line).collect())
    }

    fn record(&self, line: &Line) -> serde_json::Value {
        let ms = |time: std::time::Duration| rounded(time.as_secs_f64() * 1e3);
        let Shape {
            batch,
            num_heads,
            num_kv_heads,
            seq_len_q,
            seq_len_kv,
            head_dim,
            head_dim_v,
            ..
        } = line.shape;
        json!({
            "device": self.attention.device().adapter_info().name,
            "kernel": line.kernel.name(),
            "shape": [batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v],
            "mask": line.mask,
            "dtype": line.dtype.name(),
            "ms_median": ms(line.samples.median()),
            "ms_min": ms(line.samples.least()),
            "cpu_ms": ms(line.samples.cpu()),
            "rounds": line.samples.rounds(),
            "kept_cells": line.kept_cells,
            "gflops": rounded(line.gflops()),
            "share_of_peak": rounded(line.share_of_peak),
            "peak_gflops": rounded(self.peaks.operations * 1e-9),
            "copy_gbytes_per_s": rounded(self.peaks.bytes * 1e-9),
        })
    }

    /// The first line of a file that is sent in.
    fn about_the_device(&self) -> serde_json::Value {
        let device = self.attention.device();
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
            "times": self.clock.name(),
            "peak_gflops": rounded(self.peaks.operations * 1e-9),
            "copy_gbytes_per_s": rounded(self.peaks.bytes * 1e-9),
        })
    }

    fn print_heading(&self, progress: &ProgressBar) -> anyhow::Result<()> {
        progress.suspend(|| {
            crate::print(|out| {
                writeln!(out, "device: {}", self.device_name())?;
                writeln!(out, "times:  {}", self.clock.name())?;
                writeln!(out, "peaks:  {}\n", self.peak_words())?;
                writeln!(
                    out,
                    "{:<42}{:<11}{:>11}{:>11}{:>11}{:>10}{:>9}{:>8}",
                    "batch, heads/kv heads, queries x keys",
                    "kernel",
                    "median",
                    "least",
                    "CPU time",
                    "GFLOP/s",
                    "of peak",
                    "rounds"
                )
            })
        })
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
                "{:.1} %   {:.2} ms   {:.1} GFLOP/s",
                100.0 * line.share_of_peak,
                line.samples.median().as_secs_f64() * 1e3,
                line.gflops()
            );
            Bar { label, share: line.share_of_peak, value }
        });
        Bars::new("Share of the device's peak")
            .subtitle(self.device_name())
            .subtitle(self.peak_words())
            .bars(bars)
    }
}

impl Line {
    fn gflops(&self) -> f64 {
        self.operations / self.samples.median().as_secs_f64() * 1e-9
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let ms = |time: std::time::Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        writeln!(
            out,
            "{:<42}{:<11}{:>11}{:>11}{:>11}{:>10.1}{:>8.1}%{:>8}",
            self.name,
            self.kernel.name(),
            ms(self.samples.median()),
            ms(self.samples.least()),
            ms(self.samples.cpu()),
            self.gflops(),
            100.0 * self.share_of_peak,
            self.samples.rounds(),
        )
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

pub(crate) fn progress_bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    ProgressBar::new(steps as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
