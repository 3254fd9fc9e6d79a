//! What proves things about the library: comparisons with other implementations, compilers and drivers of all kinds, faults,
//! fuzzing. `cargo xtask` has the same commands, and starts this program for them.

#[cfg(test)]
mod architecture;
mod compare;
mod faults;
mod fuzz;
mod gpu_report;
mod isa;
mod modules;
mod portability;
mod svg;
mod web;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use drivers::Choice;
use drivers::workspace::Workspace;

/// What proves things about wgpu-attention.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    /// The device to run on [default: auto].
    ///
    /// The environment variable WGPU_ATTENTION_DRIVER sets it too; the option wins.
    #[arg(long, global = true, value_enum, value_name = "DRIVER")]
    driver: Option<Choice>,

    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Compare(compare::Arguments),

    /// Make the driver lose the device, or find no memory, at every call that may, one after the other (Linux)
    Faults(faults::Options),

    /// Fuzz what reads text and files of anybody's: masks, functions in WGSL, safetensors
    #[command(after_help = fuzz::EXAMPLES)]
    Fuzz(fuzz::Options),

    GpuReport(gpu_report::Options),

    /// Compile the kernels for real GPUs and report on their machine code: registers, occupancy, instructions
    #[command(
        after_help = "No GPU is needed: Mesa's drivers are told that there is one; they are fetched below the target folder (Debian)."
    )]
    Isa(isa::Options),

    /// Draw the library's modules and what they import: docs/modules.svg
    Modules,

    Portability(portability::Options),

    Web(web::Options),
}

fn main() -> ExitCode {
    drivers::start(|| fuzz::compile().unwrap_or_else(|| run(Cli::parse())))
}

fn run(cli: Cli) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let choice = Choice::from_option_or_environment(cli.driver)?;
    match cli.task {
        Task::Compare(arguments) => compare::run(&workspace, choice, &arguments),
        Task::Faults(options) => faults::run(&workspace, choice, &options),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::GpuReport(options) => gpu_report::run(&workspace, choice, &options),
        Task::Isa(options) => isa::run(&workspace, &options),
        Task::Modules => modules::run(&workspace),
        Task::Portability(options) => portability::run(&workspace, &options),
        Task::Web(options) => web::run(&workspace, choice, &options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
