//! wgpu's noop device: it validates shaders and pipelines and runs nothing.

use std::sync::LazyLock;

use wgpu_attention::{Error, Kernels};

static DEVICE: LazyLock<wgpu::Device> = LazyLock::new(|| {
    let descriptor = wgpu::DeviceDescriptor {
        required_features: wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16,
        ..Default::default()
    };
    wgpu::Device::noop(&descriptor).0
});

/// Kernels with nothing compiled yet, so that inputs neither share nor keep any.
pub(crate) fn kernels() -> Kernels {
    Kernels::new(&DEVICE, &Default::default())
}

/// A plan is made, or refused for what the caller asked for. Everything else would be the crate's own fault.
pub(crate) fn made_or_refused<T>(plan: Result<T, Error>) -> Option<T> {
    match plan {
        Ok(plan) => Some(plan),
        Err(Error::Operand { .. } | Error::Limit { .. } | Error::KernelRefused { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}
