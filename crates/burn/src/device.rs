//! Devices that burn and this crate share.
//!
//! cubecl hands out the buffers of a device that is open, but not the device and its queue. It returns these where a device is
//! opened, so that is where they are kept.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuInitError, WgpuOptions, WgpuSetup};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::wgpu::WgpuDevice;
use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{Error, Result};

use crate::context::Context;

static CONTEXTS: LazyLock<Mutex<HashMap<WgpuDevice, Arc<Context>>>> = LazyLock::new(Mutex::default);

/// Opens burn's default wgpu device for burn and for this crate: call it once, before the first tensor.
///
/// The device has all features and limits of the adapter, among them those of `wgpu_attention::required_features`.
/// `Device::default()` and `Device::wgpu(Default::default())` are this device from then on.
///
/// # Errors
/// Where there is no adapter, or burn has opened its default device already: a tensor was made before, or this was called twice.
/// Clone the device of the first call.
#[cfg(not(target_family = "wasm"))]
pub fn init() -> Result<Device, WgpuInitError> {
    init_with(Device::wgpu_options())
}

/// [`init`] with burn's options: another adapter, another graphics API, how cubecl lays out memory.
///
/// ```no_run
/// use burn::tensor::{Device, DeviceKind};
/// let options = Device::wgpu_options().device_kind(DeviceKind::DiscreteGpu(1));
/// let device = wgpu_attention_burn::init_with(options)?;
/// # Ok::<(), burn::tensor::wgpu::WgpuInitError>(())
/// ```
///
/// # Errors
/// As [`init`].
#[cfg(not(target_family = "wasm"))]
pub fn init_with(options: WgpuOptions) -> Result<Device, WgpuInitError> {
    let (device, setup) = options.init_with_setup()?;
    keep(&device, &setup)
}

/// [`init_with`] for browsers and async programs.
///
/// # Errors
/// As [`init`].
pub async fn init_async(options: WgpuOptions) -> Result<Device, WgpuInitError> {
    let (device, setup) = options.init_with_setup_async().await?;
    keep(&device, &setup)
}

fn keep(device: &Device, setup: &WgpuSetup) -> Result<Device, WgpuInitError> {
    register(device, setup, &KernelOptions::default())
        .map_err(|error| WgpuInitError::Registration { message: error.to_string() })?;
    Ok(device.clone())
}

/// Makes a device known whose handles the program has: one that it opened itself and gave to burn, or that burn opened with
/// `init_with_setup`. Known devices are replaced, so this also sets other [`KernelOptions`] for one of [`init`].
///
/// ```no_run
/// use burn::tensor::Device;
/// use burn::tensor::wgpu::WgpuSetup;
/// # fn f(setup: WgpuSetup) -> Result<(), Box<dyn std::error::Error>> {
/// // `setup` is of a device opened with wgpu_attention::required_features and required_limits.
/// let device = Device::wgpu_options().setup(setup.clone()).init()?;
/// wgpu_attention_burn::register(&device, &setup, &Default::default())?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// Where the device isn't one of wgpu.
pub fn register(device: &Device, setup: &WgpuSetup, options: &KernelOptions) -> Result<()> {
    let key = wgpu_device(&cube_device(device)?)?;
    let context = Arc::new(Context::new(&setup.device, &setup.queue, options));
    CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner).insert(key, context);
    Ok(())
}

/// The device and queue of a tensor on this device.
pub(crate) fn context(device: &CubeDevice) -> Result<Arc<Context>> {
    let key = wgpu_device(device)?;
    let contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    contexts.get(&key).map(Arc::clone).ok_or_else(|| {
        Error::operand(
            "device",
            "one that was opened by `wgpu_attention_burn::init`, or made known by \
             `wgpu_attention_burn::register`; call `init` before the first tensor",
            format!("{key:?}, which burn opened by itself"),
        )
    })
}

/// The cubecl device of a burn device, with autodiff or without.
pub(crate) fn cube_device(device: &Device) -> Result<CubeDevice> {
    match device.as_dispatch().clone().inner() {
        DispatchDevice::Cube(device) => Ok(device),
        #[allow(unreachable_patterns, reason = "where burn has this backend alone")]
        other => Err(not_wgpu(&other)),
    }
}

fn wgpu_device(device: &CubeDevice) -> Result<WgpuDevice> {
    match device {
        CubeDevice::Wgpu(device) => Ok(device.clone()),
        #[allow(unreachable_patterns, reason = "where cubecl has this runtime alone")]
        other => Err(not_wgpu(other)),
    }
}

fn not_wgpu(found: &dyn std::fmt::Debug) -> Error {
    Error::operand(
        "device",
        "a wgpu device; move the tensors to one of `wgpu_attention_burn::init`",
        format!("{found:?}"),
    )
}

/// How many plans a device keeps, for tests.
#[doc(hidden)]
pub fn plans(device: &Device) -> usize {
    let context = cube_device(device).and_then(|device| context(&device));
    context.map_or(0, |context| context.work().plans())
}
