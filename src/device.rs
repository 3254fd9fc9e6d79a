//! Devices: listing and opening them, and catching what they report.

use crate::error::{Error, Result};

/// Which adapter to open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// The fastest kind there is: a discrete GPU before an integrated one, a CPU last.
    #[default]
    Best,
    /// The adapter at this place of [`adapters`].
    Index(usize),
    /// The first adapter whose name contains this text, in any case.
    Name(String),
}

impl From<&str> for DeviceChoice {
    /// A number is an index, everything else a part of a name.
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(index) => Self::Index(index),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

/// Every adapter that wgpu finds, the best kind first. `WGPU_BACKEND` limits where it looks.
pub async fn adapters() -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let instance = wgpu::Instance::new(descriptor);
    // The noop backend computes nothing, so nobody means it.
    let backends = wgpu::Backends::all() - wgpu::Backends::NOOP;
    let mut adapters = instance.enumerate_adapters(backends).await;
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// Finds the chosen adapter.
pub(crate) async fn adapter(choice: &DeviceChoice) -> Result<wgpu::Adapter> {
    let mut adapters = adapters().await;
    let names: Vec<String> = (adapters.iter().enumerate())
        .map(|(index, adapter)| format!("{index}: {}", adapter.get_info().name))
        .collect();
    if adapters.is_empty() {
        return Err(Error::NoAdapter(
            "no GPU adapter was found: install your GPU's Vulkan driver, or a software one \
             (Debian and Ubuntu: mesa-vulkan-drivers, Fedora: mesa-vulkan-drivers, Arch: vulkan-swrast)"
                .to_owned(),
        ));
    }
    let found = match choice {
        DeviceChoice::Best => Some(0),
        DeviceChoice::Index(index) => Some(*index),
        DeviceChoice::Name(part) => adapters.iter().position(|adapter| {
            let name = adapter.get_info().name.to_lowercase();
            name.contains(&part.to_lowercase())
        }),
    };
    match found {
        Some(index) if index < adapters.len() => Ok(adapters.swap_remove(index)),
        _ => {
            let asked = match choice {
                DeviceChoice::Index(index) => format!("number {index}"),
                DeviceChoice::Name(part) => format!("named like `{part}`"),
                DeviceChoice::Best => "at all".to_owned(),
            };
            Err(Error::NoAdapter(format!(
                "there is no device {asked}; there are {}",
                names.join(", ")
            )))
        }
    }
}

/// Opens the adapter with the features that kernels use and all that its limits allow.
pub(crate) async fn open(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgpu-attention"),
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let opened = adapter.request_device(&descriptor).await;
    opened.map_err(|error| {
        Error::NoAdapter(format!("{} can't be opened: {error}", adapter.get_info().name))
    })
}

/// Runs `work` and returns what the device objected to while it ran.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    during: &'static str,
    work: impl FnOnce() -> T,
) -> Result<T> {
    let out_of_memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let value = work();
    // wgpu's native backends have the answer at once.
    let reports =
        [validation, internal, out_of_memory].map(|scope| pollster::block_on(scope.pop()));
    // Exhausted memory makes what follows invalid, so it goes first.
    match reports.into_iter().flatten().next_back() {
        None => Ok(value),
        Some(error) => Err(report(device, during, &error)),
    }
}

/// Whether the device is gone: then wgpu hands out invalid resources without a word, and their first use fails.
fn is_lost(device: &wgpu::Device) -> bool {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let probe = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("probe"),
        size: 4,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: true,
    });
    probe.unmap();
    pollster::block_on(scope.pop()).is_some()
}

fn report(device: &wgpu::Device, during: &'static str, error: &wgpu::Error) -> Error {
    let message = error.to_string();
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { during, message },
        _ if is_lost(device) => Error::DeviceLost { during, message },
        _ => Error::Device { during, message },
    }
}
