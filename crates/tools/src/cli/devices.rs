//! `devices`: what there is to compute on.

use std::io::{self, Write};

use wgpu::Features;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::mask::TileGrid;
use wgpu_attention::{Problem, Session, Shape};

use crate::talk::{self, Talk};

/// List the devices with their features, limits and kernels.
///
/// The kernels are those chosen for 8 heads of f32 without a mask: `prefill` has 1024 queries and keys, `decode` one query and
/// 4096 keys. Tiles are given in queries x keys.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Print one JSON object per device.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention devices
  wgpu-attention devices --verbose
  wgpu-attention devices --json | jq -r .name";

/// The head sizes for which the choice of kernels is shown.
const HEAD_DIMS: [usize; 5] = [32, 64, 128, 256, 512];

/// The numbers of queries and keys, likewise.
const PHASES: [(&str, usize, usize); 2] = [("prefill", 1024, 1024), ("decode", 1, 4096)];

/// What is chosen for one size.
struct Choice {
    phase: &'static str,
    head_dim: usize,
    /// The kernel and its tiles, or why there is none.
    kernel: Result<(ForwardKernel, TileGrid), String>,
    /// The long form.
    words: String,
}

pub(crate) fn list(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    let adapters = pollster::block_on(wgpu_attention::device::adapters());
    if adapters.is_empty() {
        // Opening says what to do about it.
        Session::open_blocking(&Default::default())?;
    }
    crate::print(|out| {
        for (index, adapter) in adapters.iter().enumerate() {
            if arguments.json {
                writeln!(out, "{}", record(index, adapter))?;
            } else if talk.quiet {
                writeln!(out, "{index}: {}", adapter.get_info().name)?;
            } else {
                describe(out, index, adapter, talk)?;
            }
        }
        Ok(())
    })
}

/// # Errors
/// Why the device can't be opened.
fn choices(adapter: &wgpu::Adapter) -> Result<Vec<Choice>, String> {
    let attention = pollster::block_on(Session::from_adapter(adapter));
    let attention = attention.map_err(|error| error.to_string())?;
    let kernels = attention.kernels();
    let choice = |(phase, queries, keys): (&'static str, usize, usize), head_dim: usize| {
        let problem = Problem::new(Shape::new(1, 8, queries, head_dim).seq_len_kv(keys));
        Choice {
            phase,
            head_dim,
            kernel: kernels
                .choose(&problem, &Default::default())
                .map_err(|error| error.to_string()),
            words: kernels
                .explain(&problem, &Default::default())
                .unwrap_or_else(|error| error.to_string()),
        }
    };
    Ok((PHASES.into_iter())
        .flat_map(|phase| HEAD_DIMS.map(|head_dim| choice(phase, head_dim)))
        .collect())
}

fn describe(
    out: &mut dyn Write,
    index: usize,
    adapter: &wgpu::Adapter,
    talk: Talk,
) -> io::Result<()> {
    let info = adapter.get_info();
    writeln!(out, "{index}: {}", info.name)?;
    writeln!(out, "  type:     {}", type_name(info.device_type))?;
    writeln!(out, "  backend:  {}", info.backend)?;
    writeln!(out, "  driver:   {}", format!("{} {}", info.driver, info.driver_info).trim())?;
    let [with, without] = features(adapter.features(), &info).map(|names| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    });
    writeln!(out, "  features: {with}; without: {without}")?;
    writeln!(out, "  limits:   {}", limits(&adapter.limits()))?;
    let choices = match choices(adapter) {
        Ok(choices) => choices,
        Err(error) => return writeln!(out, "  kernels:  none: {error}"),
    };
    for (phase, ..) in PHASES {
        let of_phase = choices.iter().filter(|choice| choice.phase == phase);
        writeln!(out, "  {:<10}{}", format!("{phase}:"), in_short(of_phase))?;
    }
    for choice in choices.iter().filter(|_| talk.verbose) {
        writeln!(out, "  {} of head_dim {}:", choice.phase, choice.head_dim)?;
        for clause in talk::clauses(&choice.words) {
            writeln!(out, "    {clause}")?;
        }
    }
    Ok(())
}

/// Each kernel once, with the head sizes for which it is chosen.
fn in_short<'a>(choices: impl Iterator<Item = &'a Choice>) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for choice in choices {
        let kernel = match &choice.kernel {
            Ok((kernel, grid)) => talk::in_short(*kernel, *grid),
            Err(error) => error.clone(),
        };
        match groups.last_mut() {
            Some((last, dims)) if *last == kernel => dims.push(choice.head_dim.to_string()),
            _ => groups.push((kernel, vec![choice.head_dim.to_string()])),
        }
    }
    let words = groups.iter().map(|(kernel, dims)| match groups.len() {
        1 => kernel.clone(),
        _ => format!("{kernel} (head_dim {})", dims.join(", ")),
    });
    words.collect::<Vec<_>>().join("; ")
}

/// The same for programs.
fn record(index: usize, adapter: &wgpu::Adapter) -> serde_json::Value {
    let info = adapter.get_info();
    let own = adapter.limits();
    let [with, without] = features(adapter.features(), &info);
    let (kernels, error) = match choices(adapter) {
        Ok(choices) => (choices.iter().map(Choice::record).collect(), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    serde_json::json!({
        "index": index,
        "name": info.name,
        "type": type_name(info.device_type),
        "backend": info.backend.to_string(),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "features": with,
        "missing_features": without,
        "max_storage_buffer_binding_size": own.max_storage_buffer_binding_size,
        "max_buffer_size": own.max_buffer_size,
        "max_compute_workgroup_storage_size": own.max_compute_workgroup_storage_size,
        "max_compute_invocations_per_workgroup": own.max_compute_invocations_per_workgroup,
        "kernels": kernels,
        "error": error,
    })
}

impl Choice {
    fn record(&self) -> serde_json::Value {
        let kernel = self.kernel.as_ref().ok();
        serde_json::json!({
            "for": self.phase,
            "head_dim": self.head_dim,
            "kernel": kernel.map(|(kernel, _)| kernel.name()),
            "tiles": kernel.map(|(_, grid)| [grid.block_q, grid.block_kv]),
            "choice": self.words,
        })
    }
}

const fn type_name(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "CPU",
        wgpu::DeviceType::Other => "other",
    }
}

/// The features that matter here: those that there are, and those that there aren't.
fn features(features: Features, info: &wgpu::AdapterInfo) -> [Vec<String>; 2] {
    let subgroups = match (info.subgroup_min_size, info.subgroup_max_size) {
        // A size means nothing where there are no subgroups.
        _ if !features.contains(Features::SUBGROUP) => "subgroups".to_owned(),
        (least, most) if least == most => format!("subgroups of {least}"),
        (least, most) => format!("subgroups of {least} to {most}"),
    };
    let known = [
        (Features::SUBGROUP, subgroups.as_str()),
        (Features::SHADER_F16, "f16"),
        (Features::SHADER_INT64, "64-bit integers"),
        (Features::TIMESTAMP_QUERY, "timestamp queries"),
        (Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
    ];
    [true, false].map(|there| {
        let named = known.iter().filter(|(feature, _)| features.contains(*feature) == there);
        named.map(|&(_, name)| name.to_owned()).collect()
    })
}

fn limits(limits: &wgpu::Limits) -> String {
    format!(
        "max_storage_buffer_binding_size {}, max_buffer_size {}, max_compute_workgroup_storage_size {}, \
         max_compute_invocations_per_workgroup {}, max_compute_workgroups_per_dimension {}, \
         max_storage_buffers_per_shader_stage {}, min_storage_buffer_offset_alignment {}",
        bytes(limits.max_storage_buffer_binding_size),
        bytes(limits.max_buffer_size),
        bytes(limits.max_compute_workgroup_storage_size.into()),
        limits.max_compute_invocations_per_workgroup,
        limits.max_compute_workgroups_per_dimension,
        limits.max_storage_buffers_per_shader_stage,
        limits.min_storage_buffer_offset_alignment,
    )
}

/// A size in the largest unit that it is at least one of.
fn bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| size >> shift > 0);
    match unit {
        None => format!("{size} B"),
        Some((shift, unit)) if size.trailing_zeros() >= shift => {
            format!("{} {unit}", size >> shift)
        }
        Some((shift, unit)) => format!("{:.1} {unit}", size as f64 / (1u64 << shift) as f64),
    }
}
