//! `devices`: what there is to compute on.

use std::io::{self, Write};

use wgpu::Features;
use wgpu_attention::{Problem, Session, Shape};

/// The head sizes for which the choice of kernels is shown.
const HEAD_DIMS: [usize; 4] = [32, 64, 128, 256];

pub(crate) fn list() -> anyhow::Result<()> {
    let adapters = pollster::block_on(wgpu_attention::device::adapters());
    if adapters.is_empty() {
        // Opening says what to do about it.
        Session::open_blocking(&Default::default())?;
    }
    crate::print(|out| {
        adapters.iter().enumerate().try_for_each(|(index, adapter)| describe(out, index, adapter))
    })
}

fn describe(out: &mut dyn Write, index: usize, adapter: &wgpu::Adapter) -> io::Result<()> {
    let info = adapter.get_info();
    writeln!(out, "{index}: {}", info.name)?;
    writeln!(out, "  type:     {}", type_name(info.device_type))?;
    writeln!(out, "  backend:  {}", info.backend)?;
    writeln!(out, "  driver:   {}", format!("{} {}", info.driver, info.driver_info).trim())?;
    writeln!(out, "  features: {}", features(adapter.features(), &info))?;
    writeln!(out, "  limits:   {}", limits(&adapter.limits()))?;
    match pollster::block_on(Session::from_adapter(adapter)) {
        Err(error) => writeln!(out, "  kernels:  none, for {error}"),
        Ok(attention) => HEAD_DIMS.into_iter().try_for_each(|head_dim| {
            let problem = Problem::new(Shape::new(1, 8, 1024, head_dim));
            let choice = attention.kernels().explain(&problem, &Default::default());
            let choice = choice.unwrap_or_else(|error| error.to_string());
            writeln!(out, "  head_dim {head_dim}: {choice}")
        }),
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

fn features(features: Features, info: &wgpu::AdapterInfo) -> String {
    let subgroups = match (info.subgroup_min_size, info.subgroup_max_size) {
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
    let names = |there: bool| -> Vec<&str> {
        let named = known.iter().filter(|(feature, _)| features.contains(*feature) == there);
        // A size means nothing where there are no subgroups.
        named
            .map(|&(feature, name)| match feature {
                Features::SUBGROUP if !there => "subgroups",
                _ => name,
            })
            .collect()
    };
    let listed = |names: Vec<&str>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    format!("{}; without: {}", listed(names(true)), listed(names(false)))
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
