//! Devices: listing and opening them, and catching what they report.

#[cfg(any(target_family = "wasm", test))]
mod late;

use crate::error::{Error, Result};
use crate::suggest::did_you_mean;

/// Which adapter to open, and how.
///
/// ```no_run
/// use wgpu_attention::{Session, DeviceOptions};
/// use wgpu_attention::device::AdapterChoice;
/// let options = DeviceOptions::default().adapter(AdapterChoice::Name("radeon".to_owned()));
/// let attention = Session::open_blocking(&options)?;
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeviceOptions {
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// Whether it is opened with cooperative matrices where it has them, for
    /// [`ForwardKernel::Matrix`](crate::kernel::ForwardKernel::Matrix) and
    /// [`BackwardKernel::Matrix`](crate::kernel::BackwardKernel::Matrix).
    ///
    /// They are an experimental feature of wgpu's, whose validation isn't complete: a shader that misuses them may do
    /// anything. The kernels of this crate don't; what else the application runs on the device is the application's
    /// responsibility.
    pub matrices: bool,
}

/// Which adapter to open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterChoice {
    /// The fastest kind: a discrete GPU before an integrated one, a CPU last.
    #[default]
    Best,
    /// The adapter at this place of [`adapters`].
    Index(usize),
    /// The first adapter whose name contains this text, in any case.
    Name(String),
}

impl DeviceOptions {
    setters! {
        adapter: AdapterChoice,
        matrices: bool,
    }
}

/// The features to open a device with, so that the fastest kernels serve: those of `SUBGROUP`, `SUBGROUP_BARRIER`, `SHADER_F16`,
/// `SHADER_INT64` and `PIPELINE_CACHE` that the adapter has. Every problem can be computed without any of them.
///
/// ```no_run
/// # async fn f(adapter: wgpu::Adapter) -> Result<(), wgpu::RequestDeviceError> {
/// let (device, queue) = adapter
///     .request_device(&wgpu::DeviceDescriptor {
///         required_features: wgpu_attention::required_features(&adapter),
///         required_limits: wgpu_attention::required_limits(&adapter),
///         ..Default::default()
///     })
///     .await?;
/// # Ok(()) }
/// ```
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    use wgpu::Features;
    let used = Features::SUBGROUP
        | Features::SUBGROUP_BARRIER
        | Features::SHADER_F16
        | Features::SHADER_INT64
        | Features::PIPELINE_CACHE;
    adapter.features() & used
}

/// The limits to open a device with, so that the fastest kernels and the largest tensors are served: all that the adapter
/// allows. With `wgpu::Limits::default()` or the downlevel ones larger kernels are refused, and tensors that exceed a binding
/// take more dispatches.
///
/// See [`required_features`] for how to use it.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    adapter.limits()
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

/// The environment variable that limits where adapters are looked for.
const BACKENDS: &str = "WGPU_BACKEND";

/// Whether every name in `WGPU_BACKEND` is a backend's.
///
/// # Errors
/// [`Error::NoAdapter`] that says which isn't: wgpu passes over it, and finds nothing where it's the only one.
fn check_backends(names: &str) -> Result<()> {
    // Those that wgpu has one of as their name.
    const NAMES: [&str; 5] = ["vulkan", "metal", "dx12", "gl", "webgpu"];
    let known = |name: &str| !wgpu::Backends::from_comma_list(name).is_empty();
    match names.split(',').map(str::trim).find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::NoAdapter(format!(
            "{BACKENDS}: there is no backend `{name}`{}; there are {}",
            did_you_mean(name, NAMES),
            NAMES.join(", ")
        ))),
    }
}

/// Finds the chosen adapter.
pub(crate) async fn adapter(choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    let backends = std::env::var(BACKENDS).ok();
    if let Some(names) = &backends {
        check_backends(names)?;
    }
    let mut adapters = adapters().await;
    if adapters.is_empty() {
        let limited = backends.map_or_else(String::new, |names| {
            format!("; {BACKENDS}={names} keeps wgpu from looking elsewhere")
        });
        return Err(Error::NoAdapter(format!("{NO_ADAPTER}{limited}")));
    }
    let (index, asked) = match choice {
        AdapterChoice::Best => (Some(0), String::new()),
        AdapterChoice::Index(index) => (Some(*index), format!("number {index}")),
        AdapterChoice::Name(part) => {
            let is_named = |adapter: &wgpu::Adapter| {
                adapter.get_info().name.to_lowercase().contains(&part.to_lowercase())
            };
            (adapters.iter().position(is_named), format!("named like `{part}`"))
        }
    };
    match index.filter(|&index| index < adapters.len()) {
        Some(index) => Ok(adapters.swap_remove(index)),
        None => {
            let names: Vec<String> = (adapters.iter().enumerate())
                .map(|(index, adapter)| format!("{index}: {}", adapter.get_info().name))
                .collect();
            let names = names.join(", ");
            Err(Error::NoAdapter(format!("there is no device {asked}; there are {names}")))
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
    // Kernels of matrices may have to be handed over as SPIR-V.
    let matrices = matrices | wgpu::Features::PASSTHROUGH_SHADERS;
    // Timestamps are for the module `measure`.
    let wanted = wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS
        | if with_matrices { matrices } else { wgpu::Features::empty() };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("wgpu-attention"),
        required_features: required_features(adapter) | adapter.features() & wanted,
        required_limits: required_limits(adapter),
        #[expect(unsafe_code)]
        experimental_features: if with_matrices {
            // SAFETY: the caller asked for it by `DeviceOptions::matrices`. This crate's kernels load and
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
            instead: "split the batch or the heads among several calls, or use a device with larger buffers",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_that_there_are_not_are_told() {
        for names in ["vulkan", "VK, dx12", "gl,metal,noop"] {
            check_backends(names).unwrap();
        }
        for (names, part) in [
            ("vulcan", "no backend `vulcan` (did you mean `vulkan`?); there are vulkan, metal"),
            ("gl, typo", "no backend `typo`; there are"),
            ("", "no backend ``"),
        ] {
            let error = check_backends(names).unwrap_err().to_string();
            assert!(error.starts_with("WGPU_BACKEND: ") && error.contains(part), "{error}");
        }
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
