//! The devices of a run under the sanitizer, by environment variables, so that a test harness may run in between.

pub mod fenced;
pub mod mutants;
pub mod problems;

#[expect(dead_code, reason = "the tests' own operands, of which there are more than are used here")]
#[path = "../../../tests/device/operands.rs"]
mod operands;
#[expect(dead_code, reason = "the tests' own tolerances, likewise")]
#[path = "../../../tests/device/tolerance.rs"]
mod tolerance;

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{Kernels, Session};
use wgsl_sanitizer::Order;
use wgsl_sanitizer::device::{DeviceOptions, DispatchReport, Rewrite, Sanitizer};

/// The sanitizer's `fma` rounds once.
const fn fuses() -> bool {
    true
}

/// Invocations of a subgroup; 32 where it isn't set.
pub const SUBGROUP_SIZE: &str = "SANITIZE_SUBGROUP_SIZE";
/// `cpu`, or else a GPU: some kernels are for one of them.
pub const DEVICE: &str = "SANITIZE_DEVICE";
/// `backward`, or a seed for random orders of subgroups, or else forward.
pub const ORDER: &str = "SANITIZE_ORDER";
/// The size of cooperative matrices: 8, or else 16.
pub const MATRIX: &str = "SANITIZE_MATRIX";
/// A file to which a line is added for each dispatch.
pub const LOG: &str = "SANITIZE_LOG";

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the variables ask for.
pub fn options() -> DeviceOptions {
    let number = |name: &str| variable(name).and_then(|text| text.parse().ok());
    let default = DeviceOptions::default();
    let subgroup_size = number(SUBGROUP_SIZE).unwrap_or(32);
    DeviceOptions {
        subgroup_size,
        order: match variable(ORDER).as_deref() {
            Some("backward") => Order::Backward,
            Some(seed) => seed.parse().map_or(Order::Forward, Order::Random),
            None => Order::Forward,
        },
        device_type: match variable(DEVICE).as_deref() {
            Some("cpu") => wgpu::DeviceType::Cpu,
            _ => wgpu::DeviceType::DiscreteGpu,
        },
        // Tests run side by side, on machines that do other things, too.
        threads: 1,
        time_limit: Duration::from_secs(300),
        faults_are_errors: true,
        on_dispatch: Some(Arc::new(move |dispatch| log(dispatch, subgroup_size))),
        ..default
    }
}

/// The same device, opened with cooperative matrices.
pub fn with_matrices(options: DeviceOptions) -> DeviceOptions {
    let features = options.features
        | wgpu::Features::SUBGROUP_BARRIER
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    DeviceOptions { features, ..options }
}

/// The cooperative matrices that the device lists.
pub fn matrices() -> Vec<wgpu::CooperativeMatrixProperties> {
    matrices_of(if variable(MATRIX).as_deref() == Some("8") { 8 } else { 16 })
}

/// A list of the cooperative matrices of a size.
pub fn matrices_of(size: u32) -> Vec<wgpu::CooperativeMatrixProperties> {
    vec![wgpu::CooperativeMatrixProperties {
        m_size: size,
        n_size: size,
        k_size: size,
        ab_type: wgpu::CooperativeScalarType::F16,
        cr_type: wgpu::CooperativeScalarType::F32,
        saturating_accumulation: false,
    }]
}

/// Attention on a device under the sanitizer.
pub fn attention(options: DeviceOptions, kernels: KernelOptions) -> Session {
    let sanitizer = Sanitizer::new(options);
    let kernels = Kernels::new(sanitizer.device(), &kernels);
    Session::from_kernels(&kernels, sanitizer.queue())
}

/// The same, with kernels that are changed before they run.
pub fn rewritten(options: DeviceOptions, kernels: KernelOptions, rewrite: Rewrite) -> Session {
    attention(DeviceOptions { rewrite: Some(rewrite), ..options }, kernels)
}

/// What tells texts apart.
pub fn hash(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(text, &mut hasher);
    std::hash::Hasher::finish(&hasher)
}

/// Adds a line: the entry point, the text, the subgroup size, operations, faults, notes.
fn log(dispatch: &DispatchReport, subgroup_size: u32) {
    static TEXTS: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);
    let Some(path) = variable(LOG) else { return };
    let hash = hash(&dispatch.source);
    let faults = dispatch.report.faults().count();
    let notes = dispatch.report.findings.len() - faults;
    let line = format!(
        "{}\t{hash:016x}\t{subgroup_size}\t{}\t{faults}\t{notes}\n",
        dispatch.label, dispatch.report.operations
    );
    // One line at a time, though tests run side by side.
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("{path}: {error}");
    }
    // What was noted is shown once for each text.
    if notes > 0 && texts.insert(hash) {
        for note in dispatch.report.findings.iter().filter(|finding| finding.kind.is_note()) {
            println!("note: {}: {note}", dispatch.label);
        }
    }
}

/// Does something with each of a list on all cores; results in the list's order.
pub fn in_parallel<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { return };
                    let result = work(one);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
