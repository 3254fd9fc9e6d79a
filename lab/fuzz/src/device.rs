//! Devices that no GPU is behind: one that validates, and one that runs what validates.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use wgpu_attention::{Error, Kernels, Session};
use wgsl_sanitizer::device::{DeviceOptions, Sanitizer};

/// wgpu's noop device: it validates shaders and pipelines and runs nothing.
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

/// A device that checks every access of what it runs.
pub(crate) struct Sanitized {
    pub(crate) session: Session,
    pub(crate) sanitizer: Sanitizer,
    /// The first error that no scope waited for: of a submission.
    error: Arc<Mutex<Option<String>>>,
}

impl Sanitized {
    pub(crate) fn new() -> Self {
        let sanitizer = Sanitizer::new(DeviceOptions {
            // A kernel of the small problem takes some hundred thousand; loops may have no end.
            operation_limit: 5_000_000,
            threads: 1,
            ..DeviceOptions::default()
        });
        let error: Arc<Mutex<Option<String>>> = Arc::default();
        let hears = Arc::clone(&error);
        sanitizer.device().on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut first = hears.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error.to_string());
        }));
        let kernels = Kernels::new(sanitizer.device(), &Default::default());
        let session = Session::from_kernels(&kernels, sanitizer.queue());
        Self { session, sanitizer, error }
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
