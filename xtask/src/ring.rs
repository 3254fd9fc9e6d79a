//! `cargo xtask ring`: ring attention over MPI, `examples/ring_mpi`, with all ranks on this machine.
//!
//! The example is a workspace of its own, since its build needs an MPI and libclang, which [`drivers::mpi`] fetches.

use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use drivers::workspace::{Workspace, artifact, cargo_in, run_to_end};
use drivers::{Choice, Device, Mpi, Unavailable};

/// `cargo xtask ring`.
pub(crate) fn run(workspace: &Workspace, choice: Choice, ranks: usize) -> Result<ExitCode> {
    ensure!(ranks > 0, "there must be a rank");
    let device = drivers::select(workspace, choice)?;
    let mpi = drivers::mpi(workspace)?.map_err(Unavailable)?;
    eprintln!("running {ranks} ranks by {} on {device}", mpi.name);
    run_to_end(&mut ring(workspace, &device, &mpi, ranks)?)
}

/// Builds the example, and gives the command that starts its ranks.
fn ring(workspace: &Workspace, device: &Device, mpi: &Mpi, ranks: usize) -> Result<Command> {
    let mut build = cargo_in(&workspace.root().join("examples/ring_mpi"), "build");
    build
        // Other features of shared dependencies than the main workspace's: they would take turns to be rebuilt there.
        .env("CARGO_TARGET_DIR", workspace.target().join("ring-mpi"))
        .envs(mpi.build_environment()?);
    let program = artifact(&mut build, "ring-mpi", std::env::consts::EXE_EXTENSION)?;
    let mut command = mpi.launch(ranks);
    command.args(device.launcher(&program, mpi.libraries().as_deref())?);
    device.apply(&mut command);
    Ok(command)
}
