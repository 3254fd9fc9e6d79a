//! `cargo xtask burn`: builds and tests `crates/burn`, attention for the framework burn.
//!
//! It is a workspace of its own, since burn and cubecl are some 250 crates that nothing else needs.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use drivers::workspace::{Workspace, cargo_in, run_to_end};
use drivers::{Choice, Device};

/// `cargo xtask burn`.
pub(crate) fn run(workspace: &Workspace, choice: Choice, args: &[OsString]) -> Result<ExitCode> {
    let device = drivers::select(workspace, choice)?;
    eprintln!("testing crates/burn on {device}");
    run_to_end(&mut tests(workspace, &device, args))
}

/// Its tests on a device.
fn tests(workspace: &Workspace, device: &Device, args: &[OsString]) -> Command {
    let mut cargo = cargo_in(&workspace.root().join("crates/burn"), "test");
    cargo
        // Other features of shared dependencies than the main workspace's: they would take turns to be rebuilt there.
        .env("CARGO_TARGET_DIR", workspace.target().join("burn"))
        .arg("--")
        .args(args);
    device.apply(&mut cargo);
    drivers::leave_unoptimised(&mut cargo);
    cargo
}
