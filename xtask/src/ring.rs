//! `cargo xtask ring`: ring attention over MPI, `examples/ring_mpi`, with all ranks on this machine.
//!
//! The example is a workspace of its own, since its build needs an MPI and libclang, which [`drivers::mpi`] fetches.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail, ensure};
use drivers::workspace::{Workspace, artifact, run_to_end};
use drivers::{Choice, Device, Mpi};

use crate::report::Report;

/// `cargo xtask ring`.
pub(crate) fn run(workspace: &Workspace, choice: Choice, ranks: usize) -> Result<ExitCode> {
    ensure!(ranks > 0, "there must be a rank");
    let device = drivers::select(workspace, choice)?;
    let mpi = match drivers::mpi(workspace)? {
        Ok(mpi) => mpi,
        Err(reason) => bail!("{reason}"),
    };
    eprintln!("running {ranks} ranks by {} on {device}", mpi.name);
    run_to_end(&mut ring(workspace, &device, &mpi, ranks)?)
}

/// Two ranks as a step of the tests.
pub(crate) fn test(workspace: &Workspace, device: &Device, report: &mut Report) -> Result<()> {
    let name = "ring attention, two ranks over MPI";
    match drivers::mpi(workspace)? {
        Err(reason) => report.skip(name, reason),
        Ok(mpi) => {
            let mut command = ring(workspace, device, &mpi, 2)?;
            report.run(format!("{name} ({}) on {device}", mpi.name), &mut command)?;
        }
    }
    Ok(())
}

/// Builds the example, and gives the command that starts its ranks.
fn ring(workspace: &Workspace, device: &Device, mpi: &Mpi, ranks: usize) -> Result<Command> {
    let manifest = workspace.root().join("examples/ring_mpi/Cargo.toml");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .arg("build")
        .arg("--manifest-path")
        .arg(manifest)
        // Other features of shared dependencies than the main workspace's: they would take turns to be rebuilt there.
        .env("CARGO_TARGET_DIR", workspace.target().join("ring-mpi"))
        .envs(mpi.build_environment()?);
    let program = artifact(&mut build, "ring-mpi", std::env::consts::EXE_EXTENSION)?;
    let mut command = mpi.launch(ranks);
    command.args(device.launcher(&program, mpi.libraries().as_deref())?);
    device.apply(&mut command);
    Ok(command)
}
