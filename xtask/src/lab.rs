//! The commands of the program `lab`, which proves things about the library. It is compiled when one of them is called.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use drivers::Choice;
use drivers::workspace::{Workspace, run_to_end};

/// What `lab` itself reads.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

/// Runs one of its commands.
pub(crate) fn run(
    workspace: &Workspace,
    choice: Choice,
    name: &str,
    arguments: &Arguments,
) -> Result<ExitCode> {
    run_to_end(command(workspace, choice).arg(name).args(&arguments.arguments))
}

/// Runs `lab/sanitize`, which needs no device and is a program of its own, since it has the library in it.
pub(crate) fn sanitize(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let mut cargo = workspace.cargo("run");
    cargo.args(["--quiet", "--all-features", "--bin", "sanitize", "--"]);
    run_to_end(cargo.args(&arguments.arguments))
}

/// The call of `lab` with a choice of the device; its command and arguments are to be added.
pub(crate) fn command(workspace: &Workspace, choice: Choice) -> Command {
    let mut cargo = workspace.cargo("run");
    cargo.args(["--quiet", "--all-features", "--bin", "lab", "--"]);
    cargo.env_remove(Choice::VARIABLE);
    if choice != Choice::Auto {
        cargo.arg("--driver").arg(choice.to_string());
    }
    cargo
}
