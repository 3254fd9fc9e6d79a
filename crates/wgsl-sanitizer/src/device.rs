//! A [`wgpu::Device`] whose compute passes are run by the sanitizer, so that a whole program runs under it unchanged: its
//! own buffers, its own parameters, dispatch after dispatch.
//!
//! ```
//! use wgsl_sanitizer::device::{DeviceOptions, Sanitizer};
//! let sanitizer = Sanitizer::new(DeviceOptions { subgroup_size: 32, ..Default::default() });
//! let module = sanitizer.device().create_shader_module(wgpu::ShaderModuleDescriptor {
//!     label: None,
//!     source: wgpu::ShaderSource::Wgsl("@compute @workgroup_size(64) fn main() { workgroupBarrier(); }".into()),
//! });
//! // ... a pipeline, a pass, a submission ...
//! # drop(module);
//! for dispatch in sanitizer.take() {
//!     println!("{}: {}", dispatch.label, dispatch.report);
//! }
//! ```
//!
//! Submissions are done when `submit` returns. Only what compute passes need is there: buffers, bind groups, compute
//! pipelines, copies between buffers. Everything else panics with its name. What wgpu's validation checks on other
//! devices (limits, usages, layouts) isn't checked.

mod buffers;
mod creation;
mod queue;
mod recording;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use buffers::SanitizedBuffer;
use creation::SanitizedDevice;
use queue::SanitizedQueue;

use crate::{Buffer, Order, Report};

/// What the device pretends to be, and how its dispatches are run.
#[derive(Clone)]
pub struct DeviceOptions {
    /// Invocations of a subgroup: both ends of the range that the adapter's info states.
    pub subgroup_size: u32,
    /// The order of subgroups between barriers.
    pub order: Order,
    /// Whether variables of functions hold nothing until they are written.
    pub uninitialized_variables: bool,
    /// Whether new buffers hold nothing until they are written, instead of zeros as wgpu has them.
    pub poisoned_buffers: bool,
    /// How long a dispatch may take.
    pub time_limit: Duration,
    /// How many operations a dispatch may execute; see [`Options::operation_limit`](crate::Options::operation_limit).
    pub operation_limit: u64,
    /// How many workgroups run at a time; 0 for as many as there are cores.
    pub threads: usize,
    /// The kind of device.
    pub device_type: wgpu::DeviceType,
    /// The features.
    pub features: wgpu::Features,
    /// The limits.
    pub limits: wgpu::Limits,
    /// Whether a dispatch with faults is a validation error with their words, so that the program hears of them as of every
    /// other error of its device. Notes are none.
    pub faults_are_errors: bool,
    /// Hears every report instead of its being kept for [`Sanitizer::take`].
    pub on_dispatch: Option<OnDispatch>,
    /// Changes shaders' texts before they are read; tests of the sanitizer itself break kernels with it.
    pub rewrite: Option<Rewrite>,
}

/// What changes a text: its own text, or another one.
pub type Rewrite = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What hears reports.
pub type OnDispatch = Arc<dyn Fn(&DispatchReport) + Send + Sync>;

impl std::fmt::Debug for DeviceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceOptions")
            .field("subgroup_size", &self.subgroup_size)
            .field("order", &self.order)
            .field("device_type", &self.device_type)
            .finish_non_exhaustive()
    }
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            subgroup_size: 32,
            order: Order::Forward,
            uninitialized_variables: false,
            poisoned_buffers: false,
            time_limit: Duration::from_secs(60),
            operation_limit: u64::MAX,
            threads: 0,
            device_type: wgpu::DeviceType::Other,
            features: wgpu::Features::SUBGROUP
                | wgpu::Features::SHADER_F16
                | wgpu::Features::SHADER_INT64
                | wgpu::Features::SHADER_F64,
            limits: wgpu::Limits {
                max_compute_workgroup_storage_size: 32 << 10,
                max_compute_invocations_per_workgroup: 1024,
                max_compute_workgroup_size_x: 1024,
                max_compute_workgroup_size_y: 1024,
                max_storage_buffer_binding_size: 1 << 30,
                max_buffer_size: 1 << 30,
                ..wgpu::Limits::defaults()
            },
            faults_are_errors: false,
            on_dispatch: None,
            rewrite: None,
        }
    }
}

/// What a dispatch was, and what was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DispatchReport {
    /// The pipeline's label, or its entry point.
    pub label: String,
    /// How many workgroups there were.
    pub workgroups: [u32; 3],
    /// The shader's text.
    pub source: Arc<str>,
    /// What was found.
    pub report: Report,
}

/// A device under the sanitizer.
#[derive(Debug, Clone)]
pub struct Sanitizer {
    device: wgpu::Device,
    queue: wgpu::Queue,
    shared: Arc<Shared>,
}

impl Sanitizer {
    /// A new device.
    pub fn new(options: DeviceOptions) -> Self {
        let shared = Arc::new(Shared {
            options,
            reports: Mutex::default(),
            scopes: Mutex::default(),
            handler: Mutex::default(),
        });
        Self {
            device: wgpu::Device::from_custom(SanitizedDevice(Arc::clone(&shared))),
            queue: wgpu::Queue::from_custom(SanitizedQueue(Arc::clone(&shared))),
            shared,
        }
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Its queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// The reports of all dispatches since the last call, in their order.
    pub fn take(&self) -> Vec<DispatchReport> {
        std::mem::take(&mut lock(&self.shared.reports))
    }

    /// The sanitizer's own buffer behind one of its device's, to poison or protect parts of it.
    pub fn buffer(buffer: &wgpu::Buffer) -> Option<&Buffer> {
        buffer.as_custom::<SanitizedBuffer>().map(|buffer| &*buffer.buffer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errors that a scope waits for.
type Scope = (wgpu::ErrorFilter, Option<wgpu::Error>);

struct Shared {
    options: DeviceOptions,
    reports: Mutex<Vec<DispatchReport>>,
    scopes: Mutex<HashMap<ThreadId, Vec<Scope>>>,
    handler: Mutex<Option<Arc<dyn wgpu::UncapturedErrorHandler>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.options.fmt(f)
    }
}

impl Shared {
    fn info(&self) -> wgpu::AdapterInfo {
        let size = self.options.subgroup_size;
        wgpu::AdapterInfo {
            name: format!("wgsl-sanitizer (subgroups of {size})"),
            driver: "wgsl-sanitizer".into(),
            driver_info: env!("CARGO_PKG_VERSION").into(),
            subgroup_min_size: size,
            subgroup_max_size: size,
            ..wgpu::AdapterInfo::new(self.options.device_type, wgpu::Backend::Noop)
        }
    }

    /// Has an error heard by the innermost scope for it, by the handler, or by a panic, as wgpu does.
    fn error(&self, description: String) {
        let source = description.clone().into();
        let error = wgpu::Error::Validation { source, description };
        let mut scopes = lock(&self.scopes);
        let own = scopes.entry(std::thread::current().id()).or_default();
        let hears = |scope: &&mut Scope| scope.0 == wgpu::ErrorFilter::Validation;
        if let Some(scope) = own.iter_mut().rev().find(hears) {
            scope.1.get_or_insert(error);
            return;
        }
        drop(scopes);
        let handler = lock(&self.handler).clone();
        match handler {
            Some(handler) => handler(error),
            None => panic!("wgsl-sanitizer: {error}"),
        }
    }
}

fn unsupported(what: &str) -> ! {
    panic!("wgsl-sanitizer's device runs compute passes; it has no {what}");
}
