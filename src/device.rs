//! Devices: listing and opening them, and catching what they report.

#[cfg(any(target_family = "wasm", test))]
mod late;

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
    /// That one, opened with cooperative matrices where it has them, for
    /// [`ForwardKernel::Matrix`](crate::ForwardKernel::Matrix).
    ///
    /// They are an experimental feature of wgpu's, whose validation isn't complete: a shader that misuses them may do
    /// anything. The kernels here don't; what else the application runs on the device is its own affair.
    WithMatrices(Box<Self>),
}

impl DeviceChoice {
    /// The choice without its options, and whether cooperative matrices are wanted.
    fn parts(&self) -> (&Self, bool) {
        match self {
            Self::WithMatrices(choice) => (choice.parts().0, true),
            choice => (choice, false),
        }
    }

    pub(crate) fn with_matrices(&self) -> bool {
        self.parts().1
    }
}

/// Behind a device's text, it asks for cooperative matrices.
const WITH_MATRICES: &str = "+matrices";

impl From<&str> for DeviceChoice {
    /// A number is an index, everything else a part of a name; `+matrices` behind it is
    /// [`DeviceChoice::WithMatrices`], and nothing before that is the best one.
    fn from(text: &str) -> Self {
        if let Some(choice) = text.strip_suffix(WITH_MATRICES) {
            let choice = if choice.is_empty() { Self::Best } else { Self::from(choice) };
            return Self::WithMatrices(Box::new(choice));
        }
        match text.parse() {
            Ok(index) => Self::Index(index),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
const NO_ADAPTER: &str = "no GPU adapter was found: install your GPU's Vulkan driver, or a software one \
    (Debian and Ubuntu: mesa-vulkan-drivers, Fedora: mesa-vulkan-drivers, Arch: vulkan-swrast)";
#[cfg(target_family = "wasm")]
const NO_ADAPTER: &str = "the browser gives no GPU adapter: it has no WebGPU, or not for this GPU, or not for a page \
    that came by http from another machine";

/// Every adapter that wgpu finds, the best kind first. `WGPU_BACKEND` limits where it looks. A browser gives one at most.
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
        return Err(Error::NoAdapter(NO_ADAPTER.to_owned()));
    }
    let (choice, _) = choice.parts();
    let found = match choice {
        DeviceChoice::Best | DeviceChoice::WithMatrices(_) => Some(0),
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
                DeviceChoice::Best | DeviceChoice::WithMatrices(_) => "at all".to_owned(),
            };
            Err(Error::NoAdapter(format!(
                "there is no device {asked}; there are {}",
                names.join(", ")
            )))
        }
    }
}

/// Opens the adapter with the features that kernels use and all that its limits allow; with cooperative matrices, where
/// it has them and they are wanted.
pub(crate) async fn open(
    adapter: &wgpu::Adapter,
    with_matrices: bool,
) -> Result<(wgpu::Device, wgpu::Queue)> {
    let matrices = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let with_matrices = with_matrices && adapter.features().contains(matrices);
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_INT64
        | if with_matrices { matrices } else { wgpu::Features::empty() }
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgpu-attention"),
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        #[expect(unsafe_code)]
        experimental_features: if with_matrices {
            // SAFETY: the caller asked for it, knowing `DeviceChoice::WithMatrices`. This crate's kernels load and
            // store matrices within their arrays, in the roles and sizes that the adapter lists.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        },
        ..Default::default()
    };
    let opened = adapter.request_device(&descriptor).await;
    opened.map_err(|error| {
        Error::NoAdapter(format!("{} can't be opened: {error}", adapter.get_info().name))
    })
}

/// A buffer of zeros.
///
/// # Errors
/// [`Error::Limit`] where the device has no buffers as large, [`Error::OutOfMemory`] where it has no room.
pub(crate) fn buffer(
    device: &wgpu::Device,
    name: &'static str,
    bytes: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    create_buffer(device, name, bytes, usage, false)
}

/// A buffer that begins with `contents`, the rest zeros.
///
/// # Errors
/// As [`buffer`].
pub(crate) fn filled_buffer(
    device: &wgpu::Device,
    name: &'static str,
    bytes: u64,
    contents: &[u8],
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    let buffer = create_buffer(device, name, bytes.next_multiple_of(4).max(4), usage, true)?;
    // A lost device has handed out an invalid buffer without a word; it's here that it says so.
    let during = "filling a buffer";
    let filled = scoped(device, during, || {
        let filled = buffer.get_mapped_range_mut(..).map(|mut range| {
            range.slice(..contents.len()).copy_from_slice(contents);
        });
        buffer.unmap();
        filled
    })?;
    match filled {
        Ok(()) => Ok(buffer),
        Err(error) => Err(Error::Device { during, message: error.to_string() }),
    }
}

fn create_buffer(
    device: &wgpu::Device,
    name: &'static str,
    size: u64,
    usage: wgpu::BufferUsages,
    mapped_at_creation: bool,
) -> Result<wgpu::Buffer> {
    let available = device.limits().max_buffer_size;
    if size > available {
        return Err(Error::Limit {
            what: format!("{name} (in bytes)"),
            limit: "max_buffer_size",
            needed: size,
            available,
        });
    }
    #[cfg(test)]
    let size = faults::size_to_ask_for(size);
    let label = Some(name);
    let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation };
    let named = move |error| {
        #[cfg(test)]
        let error = faults::as_out_of_memory(size, error);
        match error {
            Error::OutOfMemory { during, message } => {
                Error::OutOfMemory { during, message: format!("{name}, {size} bytes: {message}") }
            }
            other => other,
        }
    };
    scoped_as(device, "allocating", named, || device.create_buffer(&descriptor))
}

/// Runs `work` and returns what the device objected to while it ran. In a browser that comes later, by [`settle`].
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    during: &'static str,
    work: impl FnOnce() -> T,
) -> Result<T> {
    scoped_as(device, during, |error| error, work)
}

/// The same, with errors in the caller's words.
pub(crate) fn scoped_as<T>(
    device: &wgpu::Device,
    during: &'static str,
    in_words: impl FnOnce(Error) -> Error + 'static,
    work: impl FnOnce() -> T,
) -> Result<T> {
    let out_of_memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let value = work();
    let answers = [validation, internal, out_of_memory].map(wgpu::ErrorScopeGuard::pop);
    match heard(device, during, in_words, answers) {
        None => Ok(value),
        Some(error) => Err(error),
    }
}

/// Native backends have the answers at once.
#[cfg(not(target_family = "wasm"))]
fn heard(
    device: &wgpu::Device,
    during: &'static str,
    in_words: impl FnOnce(Error) -> Error,
    answers: [impl Future<Output = Option<wgpu::Error>>; 3],
) -> Option<Error> {
    // Exhausted memory makes what follows invalid, so it goes first.
    let last = answers.map(pollster::block_on).into_iter().flatten().next_back()?;
    Some(in_words(report(during, &last, || is_lost(device))))
}

/// A browser has them when the page's code has returned to it.
#[cfg(target_family = "wasm")]
fn heard(
    device: &wgpu::Device,
    during: &'static str,
    in_words: impl FnOnce(Error) -> Error + 'static,
    answers: [impl Future<Output = Option<wgpu::Error>> + 'static; 3],
) -> Option<Error> {
    late::expect(device, async move {
        let mut last = None;
        for answer in answers {
            last = answer.await.or(last);
        }
        // Nor does it say anything of what is done with a device that was lost: its readbacks fail.
        last.map(|error| in_words(report(during, &error, || false)))
    });
    None
}

/// Waits for the device's word on everything that was scoped so far.
///
/// # Errors
/// The first of its objections that nobody has been told of; none on native backends, which tell at once.
pub(crate) async fn settle(device: &wgpu::Device) -> Result<()> {
    #[cfg(target_family = "wasm")]
    return late::settle(device).await;
    #[cfg(not(target_family = "wasm"))]
    {
        let _ = device;
        Ok(())
    }
}

/// Whether the device is gone: then wgpu hands out invalid resources without a word, and their first use fails.
#[cfg(not(target_family = "wasm"))]
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

fn report(during: &'static str, error: &wgpu::Error, is_lost: impl FnOnce() -> bool) -> Error {
    let message = error.to_string();
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { during, message },
        _ if is_lost() => Error::DeviceLost { during, message },
        _ => Error::Device { during, message },
    }
}

/// Allocations that fail on purpose.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;

    use crate::error::Error;

    thread_local! {
        /// How many allocations of this thread go well before one fails, and how many there were.
        static ALLOCATIONS: Cell<(Option<usize>, usize)> = const { Cell::new((None, 0)) };
    }

    /// More than any device has buffers of.
    const TOO_MUCH: u64 = 1 << 60;

    /// Runs `work` with its `nth` allocation failing, if there is one; returns how many there were, too.
    pub(crate) fn with_failing_allocation<T>(
        nth: Option<usize>,
        work: impl FnOnce() -> T,
    ) -> (T, usize) {
        ALLOCATIONS.set((nth, 0));
        let value = work();
        let (_, count) = ALLOCATIONS.replace((None, 0));
        (value, count)
    }

    /// The noop backend's memory is the host's, so that it's a limit that refuses; what it leaves is as invalid.
    pub(super) fn as_out_of_memory(size: u64, error: Error) -> Error {
        match error {
            Error::Device { during, message } if size == TOO_MUCH => {
                Error::OutOfMemory { during, message }
            }
            other => other,
        }
    }

    pub(super) fn size_to_ask_for(size: u64) -> u64 {
        let (nth, count) = ALLOCATIONS.get();
        ALLOCATIONS.set((nth, count + 1));
        if nth == Some(count) { TOO_MUCH } else { size }
    }
}
