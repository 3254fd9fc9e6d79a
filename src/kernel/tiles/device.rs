//! What the choice of kernels depends on.

use crate::kernel::pipeline::KernelOptions;

/// What the choice of kernels depends on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceTraits {
    /// A CPU that poses as a GPU.
    pub(crate) is_cpu: bool,
    /// The one size that subgroups have, where the device has subgroups enabled and promises one, or why there is none.
    pub(crate) fixed_subgroup_size: Result<usize, String>,
    /// Of 32 bits, that an invocation may have.
    pub(crate) registers: usize,
    /// The least and the most lanes that a subgroup may have.
    pub(crate) subgroups: (usize, usize),
    /// Whether rows are better read in words of 64 bits than of 32, and can be.
    pub(crate) reads_wide: bool,
    /// The rows and columns of the cooperative matrices of f16, summed in f32, that the device multiplies, or why it has
    /// none.
    pub(crate) matrix: Result<usize, String>,
    pub(crate) limits: wgpu::Limits,
    /// The most multiply-adds of a submission.
    pub(crate) most_work: u64,
    /// In bytes of one sequence.
    pub(crate) largest_tile_map: u64,
}

/// The largest tile map unless options say otherwise, in bytes: see docs/decisions/0031-bounds-of-mask-data.md.
pub(crate) const LARGEST_TILE_MAP: u64 = 1 << 20;

impl DeviceTraits {
    pub(crate) fn new(device: &wgpu::Device, options: &KernelOptions) -> Self {
        let info = device.adapter_info();
        let is_cpu = info.device_type == wgpu::DeviceType::Cpu;
        Self {
            is_cpu,
            fixed_subgroup_size: fixed_subgroup_size(device.features(), &info),
            registers: options.registers.unwrap_or_else(|| registers(&info.name)),
            subgroups: subgroups(&info),
            reads_wide: is_cpu && device.features().contains(wgpu::Features::SHADER_INT64),
            matrix: matrix_size(device.features(), &options.matrices),
            limits: device.limits(),
            most_work: options.most_work.unwrap_or_else(|| suitable_work(info.device_type)),
            largest_tile_map: options.largest_tile_map.unwrap_or(LARGEST_TILE_MAP),
        }
    }

    /// A CPU adapter that has all that some kernel needs, for lists of kernels and tests: subgroups of this size, and no bounds
    /// but those of WebGPU's baseline.
    #[cfg(any(test, feature = "catalog"))]
    pub(crate) fn with_everything(subgroup_size: usize) -> Self {
        Self {
            is_cpu: true,
            fixed_subgroup_size: Ok(subgroup_size),
            registers: 255,
            subgroups: (subgroup_size, subgroup_size),
            reads_wide: false,
            matrix: Ok(8),
            limits: wgpu::Limits::defaults(),
            most_work: u64::MAX,
            largest_tile_map: u64::MAX,
        }
    }
}

/// The registers that an invocation may have on an adapter of this name: what their compilers give at most, or where they begin
/// to spill (`docs/isa.md`).
fn registers(adapter: &str) -> usize {
    match adapter {
        name if name.starts_with("Apple") => 128,
        name if name.contains("Adreno (TM) 6") => 96,
        name if name.contains("Adreno") => 192,
        // All of a subgroup of 16, half of one of 8: the compiler takes the largest subgroup that needs no memory.
        name if name.contains("Intel") => 64,
        _ => 255,
    }
}

/// The least and the most lanes of a subgroup. Apple's GPUs have 32, which Metal tells of pipelines alone.
fn subgroups(info: &wgpu::AdapterInfo) -> (usize, usize) {
    match info.name.starts_with("Apple") {
        true => (32, 32),
        false => (info.subgroup_min_size as usize, info.subgroup_max_size as usize),
    }
}

/// The most multiply-adds of a submission on a device of a class, so that it takes well under the 2 seconds after which
/// Windows resets a GPU: a second at 1.4e11 of them per second on a discrete GPU, which is a tenth of what a small one
/// does at its peak, and at 3.4e10 elsewhere. CPU adapters have no watchdog.
const fn suitable_work(class: wgpu::DeviceType) -> u64 {
    match class {
        wgpu::DeviceType::Cpu => u64::MAX,
        wgpu::DeviceType::DiscreteGpu => 1 << 37,
        wgpu::DeviceType::IntegratedGpu
        | wgpu::DeviceType::VirtualGpu
        | wgpu::DeviceType::Other => 1 << 35,
    }
}

/// The refusal of a kernel for a feature that the device was opened without, and what to enable.
fn without(name: &str, enable: &str) -> String {
    format!("it needs {name}, which the device wasn't opened with: enable {enable}")
}

/// The one size that subgroups have, or why there is none.
fn fixed_subgroup_size(enabled: wgpu::Features, info: &wgpu::AdapterInfo) -> Result<usize, String> {
    if !enabled.contains(wgpu::Features::SUBGROUP) {
        return Err(without("subgroups", "Features::SUBGROUP"));
    }
    match (info.subgroup_min_size, info.subgroup_max_size) {
        (least, most) if least == most => Ok(least as usize),
        (least, most) => {
            Err(format!("it needs subgroups of one fixed size, here they have {least} to {most}"))
        }
    }
}

/// The size of the matrices that the kernel `matrix` may use, or why there is none.
fn matrix_size(
    enabled: wgpu::Features,
    listed: &[wgpu::CooperativeMatrixProperties],
) -> Result<usize, String> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let matrices = "DeviceOptions::matrices or Features::EXPERIMENTAL_COOPERATIVE_MATRIX";
    for (feature, name, enable) in [
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices", matrices),
        (wgpu::Features::SHADER_F16, "f16 arithmetic", "Features::SHADER_F16"),
        (wgpu::Features::SUBGROUP, "subgroups", "Features::SUBGROUP"),
        (wgpu::Features::SUBGROUP_BARRIER, "barriers of subgroups", "Features::SUBGROUP_BARRIER"),
    ] {
        if !enabled.contains(feature) {
            return Err(without(name, enable));
        }
    }
    if listed.is_empty() {
        return Err("it needs the adapter's list of cooperative matrices, KernelOptions::matrices"
            .to_owned());
    }
    let serves = |shape: &&wgpu::CooperativeMatrixProperties| {
        let square = shape.m_size == shape.n_size && shape.n_size == shape.k_size;
        square && [8, 16].contains(&shape.m_size) && (shape.ab_type, shape.cr_type) == (F16, F32)
    };
    let largest = listed.iter().filter(serves).map(|shape| shape.m_size as usize).max();
    largest.ok_or_else(|| {
        let shapes: Vec<String> = (listed.iter())
            .map(|shape| {
                let wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, .. } = shape;
                format!("{m_size}x{n_size}x{k_size} {:?} in {:?}", shape.ab_type, shape.cr_type)
            })
            .collect();
        format!(
            "it needs matrices of 8x8x8 or 16x16x16 in f16, summed in f32, here there are: {}",
            shapes.join(", ")
        )
    })
}
