//! `cargo xtask`: the development tasks of wgpu-attention.
//!
//! Every task that runs something first settles on a device ([`drivers`]). Then it calls cargo with the environment of that
//! device ([`tasks`]). What proves things about the library is in a program of its own ([`lab`]).

mod burn;
mod lab;
mod report;
mod ring;
mod tasks;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use drivers::Choice;
use drivers::workspace::Workspace;

use crate::tasks::Tests;

/// The development tasks of wgpu-attention: run, test and check it, with or without a GPU.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// The device to run on [default: auto].
    ///
    /// The environment variable WGPU_ATTENTION_DRIVER sets it too; the option wins.
    #[arg(long, global = true, value_enum, value_name = "DRIVER")]
    driver: Option<Choice>,

    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                            a transformer that attends on this machine's device
  cargo xtask test                            all tests on the device, and a part on a second driver
  cargo xtask test window                     only the tests with `window` in their names
  cargo xtask test window -- --nocapture      what follows `--` goes to the test harness
  cargo xtask cli -- --help                   the command line tool, on the device
  cargo xtask --driver swiftshader cli -- …   the same on another driver
  eval \"$(cargo xtask driver)\"                use the driver by hand, in this shell
  cargo xtask isa --gpu ga102                 the kernels' machine code for a GPU that isn't there
  cargo xtask compare                         this crate beside PyTorch, llama.cpp, cubek and burn
  cargo xtask portability --only tint         every kernel through Chromium's compiler; `--help` lists the others
  cargo xtask fuzz --target wgsl              libFuzzer on text that users write
  cargo xtask ci                              what CI checks

Without a GPU on Linux, lavapipe (Mesa's Vulkan driver for CPUs) is downloaded once, below the target folder.";

/// What to do.
#[derive(Subcommand)]
enum Task {
    /// Run the example `minilm`: a small transformer whose attention runs on the device.
    #[command(
        after_help = "It is built in the dev profile, which is optimised, so that it shares the build of the tests."
    )]
    Demo {
        /// Arguments for the example.
        #[arg(last = true)]
        args: Vec<OsString>,
    },

    // Verbatim, since clap wraps no lines without its optional feature.
    /// Run all tests on the device, then a part of the device tests again on SwiftShader
    ///
    /// SwiftShader is a second, independent driver: other subgroup size, smaller limits, stricter
    /// alignments. Available on Debian; elsewhere its pass is skipped, and the summary says so.
    /// `--driver` picks the device of the first pass; with `--driver swiftshader` there is that pass
    /// alone. Where the device is Mesa's driver for CPUs, which takes most of the time to compile,
    /// it compiles without optimising, and each kernel is tested once more as programs compile it.
    #[command(verbatim_doc_comment)]
    Test {
        /// Run only the tests whose names contain this.
        filter: Option<String>,

        /// Leave out the second pass.
        #[arg(long)]
        one_device: bool,

        /// Run all device tests on both drivers, optimised: what is named by a filter runs so anyway.
        #[arg(long)]
        thorough: bool,

        /// Arguments for the test harness, such as --nocapture or --test-threads=1.
        #[arg(last = true)]
        args: Vec<OsString>,
    },

    /// Run the command line tool `wgpu-attention` on the device.
    Cli {
        /// Arguments for the tool; try `-- --help`.
        #[arg(last = true)]
        args: Vec<OsString>,
    },

    /// Run an example of the examples folder on the device.
    Example {
        /// The example's name: a file or folder of examples/, without `.rs`.
        name: String,

        /// Arguments for the example.
        #[arg(last = true)]
        args: Vec<OsString>,
    },

    // Verbatim, since clap wraps no lines without its optional feature.
    /// Run ring attention over MPI: examples/ring_mpi, with all ranks on this machine
    ///
    /// MPICH, and libclang for the build, are fetched below the target folder where there is apt;
    /// elsewhere the system's own MPI is used.
    #[command(verbatim_doc_comment)]
    Ring {
        /// How many ranks.
        #[arg(long, default_value_t = 2)]
        ranks: usize,
    },

    // Verbatim, since clap wraps no lines without its optional feature.
    /// Build and test crates/burn on the device: attention for the framework burn
    ///
    /// Its dependencies are built below the target folder, apart from the others, in some 8 minutes on two
    /// cores. On a machine without a GPU, `--driver swiftshader` is faster than lavapipe.
    #[command(verbatim_doc_comment)]
    Burn {
        /// Arguments for the test harness, such as a part of the tests' names.
        #[arg(last = true)]
        args: Vec<OsString>,
    },

    /// Write docs/masks.md and its pictures: every mask, made on the device.
    Gallery,

    /// Train the example train_gpt with all masks and without each, and write docs/training/ and data/gpt.safetensors.
    ///
    /// Runs of the same settings that are in out/train_gpt/ aren't repeated.
    Learn,

    /// Run random calls one after another, each against the f64 reference, and watch memory.
    #[command(
        after_help = "Calls of the same seed are the same. One that fails names its own: --calls 1 --seed THAT repeats it."
    )]
    Soak {
        /// How many calls.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        calls: u64,

        /// What the calls are made from [default: another one each time].
        #[arg(long)]
        seed: Option<u64>,
    },

    /// Run the benchmarks on the device, with full optimisation.
    #[command(
        after_help = "On a software driver the times compare kernels with each other; they say little of a GPU."
    )]
    Bench {
        /// Arguments for the benchmarks.
        #[arg(last = true)]
        args: Vec<OsString>,
    },

    /// Run this crate beside PyTorch, llama.cpp, cubek, burn and others, and compare times and results
    #[command(disable_help_flag = true)]
    Compare(lab::Arguments),

    /// Check a GPU's results, measure it, and write a folder to send in
    #[command(disable_help_flag = true)]
    GpuReport(lab::Arguments),

    /// Compile the kernels for real GPUs and report on their machine code: registers, occupancy, instructions
    #[command(disable_help_flag = true)]
    Isa(lab::Arguments),

    /// Draw the library's modules and what they import: docs/modules.svg
    #[command(disable_help_flag = true)]
    Modules(lab::Arguments),

    /// Check every kernel on every driver and compiler that needs no GPU: run and right, compiled, or refused
    #[command(disable_help_flag = true)]
    Portability(lab::Arguments),

    /// Make the driver lose the device, or find no memory, at every call that may, one after the other (Linux)
    #[command(disable_help_flag = true)]
    Faults(lab::Arguments),

    /// Fuzz what reads text and files of anybody's: masks, functions in WGSL, safetensors
    #[command(disable_help_flag = true)]
    Fuzz(lab::Arguments),

    /// Build the page for browsers, a static site: masks that can be touched, and the browser's GPU checked
    #[command(disable_help_flag = true)]
    Web(lab::Arguments),

    /// Run every kernel under wgsl-sanitizer at subgroups of 4 to 128, without a device: races, bounds, uninitialised memory
    #[command(disable_help_flag = true)]
    Sanitize(lab::Arguments),

    /// Fetch the driver if needed, and print the environment that makes any program use it
    ///
    /// The output is shell code, so that `eval "$(cargo xtask driver)"` sets up the current shell.
    /// Programs that cargo starts then run on the driver by themselves; start any other as
    /// `"$WGPU_ATTENTION_RUNNER" ./program`.
    #[command(verbatim_doc_comment)]
    Driver {
        /// Fetch it again, even if it is there: for a newer driver, or if the files were damaged.
        #[arg(long)]
        refresh: bool,
    },

    /// Check everything that CI checks: formatting, lints, documentation, tests, other languages of kernels, fuzzing.
    Ci,
}

fn main() -> ExitCode {
    drivers::start(|| run(Cli::parse()))
}

fn run(cli: Cli) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let choice = Choice::from_option_or_environment(cli.driver)?;
    let lab = |name, arguments: lab::Arguments| lab::run(&workspace, choice, name, &arguments);
    match cli.task {
        Task::Demo { args } => tasks::example(&workspace, choice, "minilm", &args),
        Task::Test { filter, one_device, thorough, args } => {
            tasks::test(&workspace, choice, &Tests { filter, one_device, thorough, args })
        }
        Task::Cli { args } => tasks::cli(&workspace, choice, &args),
        Task::Example { name, args } => tasks::example(&workspace, choice, &name, &args),
        Task::Ring { ranks } => ring::run(&workspace, choice, ranks),
        Task::Burn { args } => burn::run(&workspace, choice, &args),
        Task::Gallery => tasks::gallery(&workspace, choice),
        Task::Learn => tasks::learn(&workspace, choice),
        Task::Soak { calls, seed } => tasks::soak(&workspace, choice, calls, seed),
        Task::Faults(arguments) => lab("faults", arguments),
        Task::Bench { args } => tasks::bench(&workspace, choice, &args),
        Task::GpuReport(arguments) => lab("gpu-report", arguments),
        Task::Isa(arguments) => lab("isa", arguments),
        Task::Modules(arguments) => lab("modules", arguments),
        Task::Portability(arguments) => lab("portability", arguments),
        Task::Compare(arguments) => lab("compare", arguments),
        Task::Fuzz(arguments) => lab("fuzz", arguments),
        Task::Web(arguments) => lab("web", arguments),
        Task::Sanitize(arguments) => lab::sanitize(&workspace, &arguments),
        Task::Driver { refresh } => tasks::driver(&workspace, choice, refresh),
        Task::Ci => tasks::ci(&workspace, choice),
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

    #[test]
    fn arguments_behind_the_dashes_are_passed_on() {
        let cli = Cli::parse_from([
            "xtask",
            "test",
            "window",
            "--driver",
            "lavapipe",
            "--",
            "--nocapture",
        ]);
        assert_eq!(cli.driver, Some(Choice::Lavapipe));
        let Task::Test { filter, args, .. } = cli.task else { panic!("not a test task") };
        assert_eq!(filter.as_deref(), Some("window"));
        assert_eq!(args, ["--nocapture"]);
    }
}
