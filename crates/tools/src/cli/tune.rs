//! `tune`: measures which kernels are fastest on a device, for plans to go by.

use std::path::PathBuf;
use std::time::Duration;

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{AuxData, Dtype, Kernels, Mask, Problem, Shape};
use wgpu_attention_tools::measure::{self, Effort};

use crate::bench;
use crate::places::{self, Place};
use crate::talk::{self, Talk};

/// Measure which kernels and tile sizes are fastest on a device, and write a profile.
///
/// Every kernel that can serve a problem runs with every tile size, in interleaved runs, and the results are compared. A
/// program loads the profile with Profile::load and passes it in KernelOptions. Plans then use the measured choice for
/// problems with the same head sizes and types and similar numbers of queries and keys. Without a profile, and on another
/// device or driver, the built-in table is used.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The sizes: batch, heads, key/value heads, queries, keys, head_dim, and head_dim_v if it differs. Can be repeated; by
    /// default, the standard set of `bench`.
    #[arg(long = "shape", value_name = "B,H,Hkv,Tq,Tk,D[,Dv]", value_parser = crate::parse_shape)]
    shapes: Vec<Shape>,

    /// The mask; see MASKS below. `all` by default. It can't read tensors.
    #[arg(long, value_name = "TEXT", requires = "shapes")]
    mask: Option<String>,

    /// The storage type of q, k, v and o.
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    dtype: bench::DtypeName,

    /// The file to write.
    #[arg(long, value_name = "FILE.json", default_value = "wgpu-attention-profile.json")]
    out: PathBuf,

    /// Run 3 rounds, instead of 5 to 31 within 10 s.
    #[arg(long)]
    quick: bool,

    #[command(flatten)]
    device: crate::Device,

    /// Print one JSON object per problem instead of text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention tune
  wgpu-attention tune --shape 1,8,8,1024,1024,64 --shape 1,8,8,1,1024,64 --mask causal --dtype f16 --out my-gpu.json";

pub(crate) fn run(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    places::check(&[Place::new("--out", &arguments.out)], &[])?;
    let problems: Vec<(Shape, Mask, AuxData)> = if arguments.shapes.is_empty() {
        bench::standard_set()
    } else {
        let mask = arguments.mask.as_deref().map(str::parse).transpose()?.unwrap_or(Mask::All);
        let problem = |&shape: &Shape| (shape, mask.clone(), AuxData::new());
        arguments.shapes.iter().map(problem).collect()
    };
    let masks: Vec<String> = problems.iter().map(|(_, mask, _)| mask.to_string()).collect();
    let problem = |(shape, mask, data): (Shape, Mask, AuxData)| {
        let problem = Problem::new(shape).mask(mask).dtypes(Dtype::from(arguments.dtype));
        (problem.aux_shape(data.shape()), data)
    };
    let problems: Vec<(Problem, AuxData)> = problems.into_iter().map(problem).collect();
    let attention = arguments.device.open(talk)?;
    let effort = if arguments.quick { Effort::QUICK } else { Effort::default() };
    let progress = talk.steps(problems.len());
    progress.0.enable_steady_tick(Duration::from_millis(200));
    let profile = measure::tune(&attention, &problems, effort, |problem, what| {
        progress.0.set_position(problem as u64);
        progress.0.set_message(what.to_owned());
    })?;
    profile.save(&arguments.out)?;
    drop(progress);

    // What plans make of it.
    let options = KernelOptions::default().profile(profile);
    let tuned = Tuned {
        before: attention.kernels().clone(),
        after: Kernels::new(attention.device(), &options),
    };
    let mut lines = Vec::new();
    for ((problem, _), mask) in problems.iter().zip(&masks) {
        lines.extend(match (arguments.json, talk.quiet) {
            (true, _) => vec![tuned.record(problem, mask, arguments)?.to_string()],
            (false, true) => Vec::new(),
            (false, false) => tuned.words(problem, mask, talk)?,
        });
    }
    if !(arguments.json || talk.quiet) {
        lines.push(arguments.out.display().to_string());
    }
    crate::print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}

/// Kernels without the profile, and with it.
struct Tuned {
    before: Kernels,
    after: Kernels,
}

impl Tuned {
    fn words(&self, problem: &Problem, mask: &str, talk: Talk) -> anyhow::Result<Vec<String>> {
        let (kernel, grid) = self.after.choose(problem, &Default::default())?;
        let (before, own) = self.before.choose(problem, &Default::default())?;
        let mut lines = vec![format!(
            "{} {mask}: {} (without the profile: {})",
            bench::sizes(problem.shape()),
            talk::in_short(kernel, grid),
            talk::in_short(before, own)
        )];
        if talk.verbose {
            let choice = self.after.explain(problem, &Default::default())?;
            lines.extend(talk::clauses(&choice).map(|clause| format!("  {clause}")));
        }
        Ok(lines)
    }

    fn record(
        &self,
        problem: &Problem,
        mask: &str,
        arguments: &Arguments,
    ) -> anyhow::Result<serde_json::Value> {
        let (kernel, grid) = self.after.choose(problem, &Default::default())?;
        let (before, own) = self.before.choose(problem, &Default::default())?;
        Ok(serde_json::json!({
            "profile": arguments.out.display().to_string(),
            "shape": crate::sizes(problem.shape()),
            "mask": mask,
            "dtype": Dtype::from(arguments.dtype).name(),
            "kernel": kernel.name(),
            "tiles": [grid.block_q, grid.block_kv],
            "kernel_before": before.name(),
            "tiles_before": [own.block_q, own.block_kv],
            "choice": self.after.explain(problem, &Default::default())?,
        }))
    }
}
