//! `cargo xtask sanitize`: every kernel under wgsl-sanitizer, at every subgroup size, and kernels broken on purpose.

mod library;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use drivers::workspace::Workspace;
use indicatif::{ProgressBar, ProgressStyle};
use sanitize::mutants::{self, Fate};
use sanitize::problems::{CASES, Outcome};
use sanitize::{attention, matrices_of, with_matrices};
use wgpu_attention::kernel::KernelOptions;
use wgsl_sanitizer::Order;
use wgsl_sanitizer::device::DeviceOptions;

use crate::report::{Broken, Figures, Run};

/// Run every kernel under wgsl-sanitizer: at subgroups of 4 to 128, on CPU adapters' kernels and GPUs'
#[derive(Parser)]
#[command(bin_name = "cargo xtask sanitize")]
struct Options {
    /// Run the library's device tests under the sanitizer, too, at every size: about an hour of CPU time
    #[arg(long)]
    thorough: bool,

    /// Only the library's tests whose names contain this
    #[arg(long, value_name = "FILTER", requires = "thorough")]
    filter: Option<String>,

    /// Leave out the kernels that are broken on purpose
    #[arg(long)]
    no_mutants: bool,

    /// Write the figures to docs/RELIABILITY.md
    #[arg(long)]
    write: bool,
}

const SIZES: [u32; 6] = [4, 8, 16, 32, 64, 128];

/// The size of cooperative matrices beside a subgroup size: each of both with several.
const fn matrix(subgroup_size: u32) -> u32 {
    match subgroup_size {
        4 | 16 => 8,
        _ => 16,
    }
}

fn order(subgroup_size: u32) -> Order {
    match subgroup_size {
        4 | 32 => Order::Forward,
        8 | 64 => Order::Backward,
        other => Order::Random(u64::from(other)),
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let mut figures = Figures { kernels: kernels()?, ..Figures::default() };
    if !options.no_mutants {
        figures.mutants = broken()?;
    }
    if options.thorough {
        for size in SIZES {
            for device in ["cpu", "gpu"] {
                let own = library::Device { size, kind: device, matrix: matrix(size) };
                figures.library.push(library::run(&workspace, &own, options.filter.as_deref())?);
            }
        }
    }
    println!("{}", figures.markdown());
    for fault in figures.faults() {
        println!("{fault}\n");
    }
    if options.write {
        report::write(&workspace.root().join("docs/RELIABILITY.md"), &figures)?;
    }
    Ok(if figures.faults().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bar(length: usize, what: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}")?;
    Ok(ProgressBar::new(length as u64).with_style(style).with_prefix(what.to_owned()))
}

/// Every problem at every size.
fn kernels() -> Result<Vec<Run>> {
    let bar = bar(SIZES.len() * 2 * CASES.len(), "kernels")?;
    let mut runs = Vec::new();
    for size in SIZES {
        let mut run = Run { what: format!("{size}"), ..Run::default() };
        let seen: Arc<Mutex<(BTreeSet<u64>, Run)>> = Arc::default();
        for device_type in [wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu] {
            let ears = Arc::clone(&seen);
            let options = DeviceOptions {
                subgroup_size: size,
                device_type,
                order: order(size),
                threads: 0,
                on_dispatch: Some(Arc::new(move |dispatch| {
                    let mut seen = ears.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.0.insert(sanitize::hash(&dispatch.source));
                    seen.1.dispatches += 1;
                    seen.1.operations += dispatch.report.operations;
                })),
                ..sanitize::options()
            };
            let kernels = KernelOptions::default().matrices(matrices_of(matrix(size)));
            let attention = attention(with_matrices(options), kernels);
            for case in CASES {
                bar.set_message(format!("{}, subgroups of {size}", case.name));
                match case.run(&attention) {
                    Outcome::Right => run.right += 1,
                    Outcome::Refused(_) => run.refused += 1,
                    Outcome::Wrong(words) => {
                        run.faults.push(format!("{}, subgroups of {size}: {words}", case.name));
                    }
                }
                bar.inc(1);
            }
        }
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        run.texts = seen.0.len();
        run.dispatches = seen.1.dispatches;
        run.operations = seen.1.operations;
        bar.suspend(|| {
            eprintln!("subgroups of {size}: {} right, {} faults", run.right, run.faults.len())
        });
        runs.push(run);
    }
    bar.finish_and_clear();
    Ok(runs)
}

/// Every mutant of the chosen kernels.
fn broken() -> Result<Vec<Broken>> {
    let mut all = Vec::new();
    for &(name, size, device_type) in mutants::KERNELS {
        let case = mutants::case(name).with_context(|| format!("there is no problem `{name}`"))?;
        let whole = mutants::whole(case, size, device_type);
        let whole = whole.map_err(|words| anyhow!("{name}: {words}"))?;
        let (reached, unreached): (Vec<_>, Vec<_>) = mutants::mutants(&whole.text)
            .into_iter()
            .partition(|mutant| whole.lines.contains(&(mutant.line as u32)));
        let mutants = reached;
        let bar = bar(mutants.len(), name)?;
        let mut broken = Broken::new(name, unreached.len());
        let fates: Mutex<BTreeMap<usize, Fate>> = Mutex::default();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // Mutants panic where a submission has no scope for its errors.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(mutant) = mutants.get(at) else { return };
                        let fate = mutants::run(case, size, device_type, &whole, mutant);
                        fates.lock().unwrap_or_else(PoisonError::into_inner).insert(at, fate);
                        bar.inc(1);
                    }
                });
            }
        });
        std::panic::set_hook(hook);
        bar.finish_and_clear();
        let fates = fates.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (mutant, fate) in mutants.iter().zip(fates.into_values()) {
            broken.add(mutant, &fate);
        }
        eprintln!("{}", broken.line());
        for missed in broken.missed() {
            eprintln!("  {missed}");
        }
        all.push(broken);
    }
    Ok(all)
}

/// A file for what a run of the library's tests writes.
fn log_file(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target().join(format!("sanitize-{name}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Options::command().debug_assert();
    }
}
