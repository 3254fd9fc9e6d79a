//! `cargo xtask sanitize`: every kernel under wgsl-sanitizer, at every subgroup size, and kernels broken on purpose.

mod library;
mod report;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
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
    /// Run the library's device tests under the sanitizer, too, each at one of the sizes and as one kind of device
    #[arg(long)]
    thorough: bool,

    /// Only the library's tests whose names contain this, but those at every size as both kinds of device
    #[arg(long, value_name = "FILTER", requires = "thorough")]
    filter: Option<String>,

    /// Only problems and broken kernels whose names contain this
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "write"
    )]
    only: String,

    /// Only subgroups of this size; broken kernels have their own
    #[arg(long, value_name = "N", conflicts_with = "write")]
    size: Option<u32>,

    /// Leave out the problems
    #[arg(long)]
    no_problems: bool,

    /// Leave out the kernels that are broken on purpose
    #[arg(long)]
    no_mutants: bool,

    /// Write the figures of what was run to docs/RELIABILITY.md
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
    let mut figures = Figures::default();
    if !options.no_problems {
        figures.kernels = kernels(options)?;
    }
    if !options.no_mutants {
        figures.mutants = broken(&options.only)?;
    }
    if options.thorough {
        figures.library = library_tests(&workspace, options.filter.as_deref())?;
    }
    for (_, table) in figures.parts() {
        println!("{table}");
    }
    for fault in figures.faults() {
        println!("{fault}\n");
    }
    if options.write {
        report::write(&workspace.root().join("docs/RELIABILITY.md"), &figures)?;
    }
    Ok(if figures.faults().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The library's own tests: each on one kind of device at one size, side by side in the list at different ones, so that
/// every module of tests meets most pairs of both; those that are named, on all.
fn library_tests(workspace: &Workspace, filter: Option<&str>) -> Result<Vec<Run>> {
    let names = library::names(workspace, filter)?;
    let devices: Vec<library::Device> = SIZES
        .iter()
        .flat_map(|&size| {
            ["cpu", "gpu"].map(|kind| library::Device { size, kind, matrix: matrix(size) })
        })
        .collect();
    let mut shares = vec![Vec::new(); devices.len()];
    for (at, name) in names.into_iter().enumerate() {
        let can_run = |number: &usize| devices[*number].can_run(&name);
        let count = devices.len();
        if filter.is_some() {
            (0..count).filter(can_run).for_each(|number| shares[number].push(name.clone()));
        } else if let Some(number) = (at..at + count).map(|at| at % count).find(can_run) {
            shares[number].push(name);
        }
    }
    let mut runs = Vec::new();
    for (device, own) in devices.iter().zip(&shares).filter(|(_, own)| !own.is_empty()) {
        runs.push(library::run(workspace, device, own)?);
    }
    Ok(runs)
}

fn bar(length: usize, what: &str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}")?;
    Ok(ProgressBar::new(length as u64).with_style(style).with_prefix(what.to_owned()))
}

/// Every problem at every size.
fn kernels(options: &Options) -> Result<Vec<Run>> {
    let kinds = [wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu];
    let cases = CASES.iter().filter(|case| case.name.contains(&options.only));
    let problems: Vec<_> = cases.flat_map(|case| kinds.map(|kind| (kind, case))).collect();
    let sizes = SIZES.into_iter().filter(|size| options.size.is_none_or(|only| only == *size));
    let bar = bar(SIZES.len() * problems.len(), "kernels")?;
    let mut runs = Vec::new();
    for size in sizes {
        let mut run = Run { what: format!("{size}"), ..Run::default() };
        let seen: Arc<Mutex<(BTreeSet<u64>, Run)>> = Arc::default();
        let outcomes = sanitize::in_parallel(&problems, |(device_type, case)| {
            let ears = Arc::clone(&seen);
            let options = DeviceOptions {
                subgroup_size: size,
                device_type: *device_type,
                order: order(size),
                on_dispatch: Some(Arc::new(move |dispatch| {
                    let mut seen = ears.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.0.insert(sanitize::hash(&dispatch.source));
                    seen.1.dispatches += 1;
                    seen.1.operations += dispatch.report.operations;
                })),
                ..sanitize::options()
            };
            let kernels = KernelOptions::default().matrices(matrices_of(matrix(size)));
            bar.set_message(format!("{}, subgroups of {size}", case.name));
            let outcome = case.run(&attention(with_matrices(options), kernels));
            bar.inc(1);
            outcome
        });
        for ((_, case), outcome) in problems.iter().zip(outcomes) {
            match outcome {
                Outcome::Right => run.right += 1,
                Outcome::Refused(_) => run.refused += 1,
                Outcome::Wrong(words) => {
                    run.faults.push(format!("{}, subgroups of {size}: {words}", case.name));
                }
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
fn broken(only: &str) -> Result<Vec<Broken>> {
    let mut all = Vec::new();
    // Mutants panic where a submission has no scope for its errors.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    for kernel in mutants::KERNELS.iter().filter(|kernel| kernel.name.contains(only)) {
        let whole = kernel.whole().map_err(|words| anyhow!("{}: {words}", kernel.name))?;
        let (reached, unreached): (Vec<_>, Vec<_>) =
            whole.mutants.iter().partition(|(_, cases)| !cases.is_empty());
        let bar = bar(reached.len(), kernel.name)?;
        let fates = sanitize::in_parallel(&reached, |(mutant, cases)| {
            let fate = whole.fate(mutant, cases);
            bar.inc(1);
            fate
        });
        bar.finish_and_clear();
        let mut broken = Broken::new(kernel.name, unreached.len());
        for ((mutant, _), fate) in reached.into_iter().zip(&fates) {
            if *fate == Fate::Missed {
                eprintln!("  {:?} not found: {mutant}", mutant.kind);
            }
            broken.add(mutant, fate);
        }
        eprintln!("{}", broken.line());
        all.push(broken);
    }
    std::panic::set_hook(hook);
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
