//! `tune`: measures which kernels are fastest on a device, for plans to go by.

use std::path::PathBuf;
use std::time::Duration;

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::measure::{self, Effort};
use wgpu_attention::{AttentionPlan, AuxData, Kernels, Mask, Problem, Shape};

use crate::bench;

/// Measure which kernel and tiles are fastest for your problems on your device, and write that to a profile.
///
/// Every kernel that serves a problem runs with every variant of its tiles, in turns, and their results are compared. A
/// program loads the profile with Profile::load and gives it to its kernels (KernelOptions): plans then prefer what was
/// measured, for problems with the same head sizes and types and about as many rows and keys. Without a profile, and on
/// any other device or driver, the built-in table decides.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The sizes: batch, heads, key and value heads, queries, keys, head_dim, and head_dim_v where it differs.
    /// May be given several times; the standard set of `bench` unless given.
    #[arg(long = "shape", value_name = "B,H,Hkv,Tq,Tk,D[,Dv]", value_parser = crate::parse_shape)]
    shapes: Vec<Shape>,

    /// The mask, as below; all unless given. It may name no data.
    #[arg(long, value_name = "TEXT", requires = "shapes")]
    mask: Option<String>,

    /// How q, k, v and o are stored.
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    dtype: bench::DtypeName,

    /// The file to write.
    #[arg(long, value_name = "FILE.json", default_value = "wgpu-attention-profile.json")]
    out: PathBuf,

    /// 3 rounds each, instead of 5 to 31 within 10 s.
    #[arg(long)]
    quick: bool,

    #[command(flatten)]
    device: crate::Device,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention tune
  wgpu-attention tune --shape 1,8,8,1024,1024,64 --shape 1,8,8,1,1024,64 --mask causal --dtype f16 --out my-gpu.json";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let problems: Vec<(Problem, AuxData)> = if arguments.shapes.is_empty() {
        let standard = bench::standard_set()?.into_iter();
        standard.map(|(shape, mask, data)| (Problem::new(shape).mask(mask), data)).collect()
    } else {
        let mask = arguments.mask.as_deref().map(str::parse).transpose()?.unwrap_or(Mask::All);
        let problem = |&shape: &Shape| (Problem::new(shape).mask(mask.clone()), AuxData::new());
        arguments.shapes.iter().map(problem).collect()
    };
    let problems: Vec<_> = (problems.into_iter())
        .map(|(problem, data)| (problem.dtypes(wgpu_attention::Dtype::from(arguments.dtype)), data))
        .collect();
    let attention = arguments.device.open()?;
    let effort = if arguments.quick { Effort::QUICK } else { Effort::default() };
    let progress = bench::progress_bar(problems.len());
    progress.enable_steady_tick(Duration::from_millis(200));
    let profile = measure::tune(&attention, &problems, effort, |problem, what| {
        progress.set_position(problem as u64);
        progress.set_message(what.to_owned());
    })?;
    profile.save(&arguments.out)?;
    progress.finish_and_clear();

    // What plans make of it, in their own words.
    let options = KernelOptions::default().profile(profile);
    let kernels = Kernels::new(attention.device(), &options);
    let mut lines = Vec::new();
    for (problem, data) in &problems {
        let problem = problem.clone().aux_shape(data.shape());
        let table =
            AttentionPlan::new(attention.kernels(), &problem, &Default::default())?.kernel();
        let sizes = bench::sizes(problem.shape());
        lines.push(format!(
            "{sizes}: {} (the table: `{table}`)",
            kernels.explain(&problem, &Default::default())?
        ));
    }
    crate::print(|out| {
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        writeln!(out, "{}", arguments.out.display())
    })
}
