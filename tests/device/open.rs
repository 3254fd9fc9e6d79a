//! How tests open devices. The sanitizer's run of these tests has its own devices in this module's place
//! (lab/sanitize/tests/library.rs).

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{DeviceOptions, Kernels, Session};

use crate::matrix::WITH_MATRICES;

const NO_DEVICE: &str = "these tests need a GPU, or a software one";

/// The best device.
pub(crate) fn best() -> Session {
    Session::open_blocking(&Default::default()).expect(NO_DEVICE)
}

/// The best device, with cooperative matrices where it has them.
pub(crate) fn with_matrices() -> Session {
    Session::open_blocking(&DeviceOptions::default().matrices(true)).expect(NO_DEVICE)
}

/// The same with other limits than the adapter's.
pub(crate) fn limited_with_matrices(change: impl FnOnce(&mut wgpu::Limits)) -> Session {
    let adapter = &pollster::block_on(wgpu_attention::device::adapters())[0];
    let mut limits = adapter.limits();
    change(&mut limits);
    let descriptor = wgpu::DeviceDescriptor {
        required_features: WITH_MATRICES.device().features(),
        required_limits: limits,
        // SAFETY: the crate's kernels load and store matrices within their arrays.
        #[expect(unsafe_code)]
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let options = KernelOptions::default().matrices(matrices());
    Session::from_kernels(&Kernels::new(&device, &options), &queue)
}

/// The best device's list of cooperative matrices.
pub(crate) fn matrices() -> Vec<wgpu::CooperativeMatrixProperties> {
    pollster::block_on(wgpu_attention::device::adapters())[0].cooperative_matrix_properties()
}

/// The best device with other limits than the adapter's.
pub(crate) fn limited(options: KernelOptions, change: impl FnOnce(&mut wgpu::Limits)) -> Session {
    let adapter = &pollster::block_on(wgpu_attention::device::adapters())[0];
    let mut limits = adapter.limits();
    change(&mut limits);
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wgpu::Features::SUBGROUP,
        required_limits: limits,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    Session::from_kernels(&Kernels::new(&device, &options), &queue)
}
