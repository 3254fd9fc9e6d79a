//! `cargo xtask gpu-report`: everything that one can say of a GPU, for whoever has one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use drivers::Choice;
use drivers::workspace::{Workspace, artifacts, run_to_end};
use serde_json::Value;

/// Check a GPU's results, measure it, and write a folder to send in
///
/// Builds the command line with full optimisation (some minutes the first time) and runs `wgpu-attention report`: at most 12
/// minutes, and a run that was stopped goes on where it was.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Add the folder of a report that was sent in to docs/gpus/.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["bundle", "args"])]
    read: Option<PathBuf>,

    /// Put the program into a folder, for a machine without Rust: it needs a Vulkan loader and libc.
    #[arg(long, value_name = "FOLDER", conflicts_with = "args")]
    bundle: Option<PathBuf>,

    /// Arguments for `wgpu-attention report`.
    #[arg(last = true)]
    args: Vec<OsString>,
}

const PROGRAM: &str = "wgpu-attention";

/// What a report consists of.
const FILES: [&str; 2] = ["report.json", "report.html"];

pub(crate) fn run(workspace: &Workspace, choice: Choice, options: &Options) -> Result<ExitCode> {
    if let Some(folder) = &options.read {
        return read(workspace, folder);
    }
    let mut build = workspace.cargo("build");
    build.args(["--release", "--package", "wgpu-attention-tools", "--bin", PROGRAM]);
    eprintln!("building {PROGRAM} with full optimisation …");
    let built = artifacts(&mut build, &[PROGRAM], std::env::consts::EXE_EXTENSION)?;
    let program = built.first().context("cargo named no program")?;
    if let Some(folder) = &options.bundle {
        return bundle(program, folder);
    }
    let mut cargo = workspace.cargo("run");
    cargo.args([
        "--quiet",
        "--release",
        "--package",
        "wgpu-attention-tools",
        "--bin",
        PROGRAM,
        "--",
    ]);
    cargo.arg("report").args(&options.args);
    drivers::select(workspace, choice)?.apply(&mut cargo);
    run_to_end(&mut cargo)
}

fn bundle(program: &Path, folder: &Path) -> Result<ExitCode> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let name = program.file_name().context("the program has no name")?;
    let copy = folder.join(name);
    let bytes = fs::copy(program, &copy).with_context(|| copy.display().to_string())?;
    println!(
        "{} ({:.1} MB); there: ./{} report",
        copy.display(),
        bytes as f64 / 1e6,
        name.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn read(workspace: &Workspace, folder: &Path) -> Result<ExitCode> {
    let path = folder.join(FILES[0]);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let report: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    ensure!(
        report["wgpu_attention_gpu_report"] == 1,
        "{} isn't a report of version 1",
        path.display()
    );
    let device = report["device"]["device"].as_str().context("the report names no device")?;
    let own = workspace.root().join("docs/gpus").join(folder_name(device));
    fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
    // A report that the page in a browser copied is the first file alone.
    for from in FILES.map(|name| folder.join(name)).iter().filter(|from| from.exists()) {
        let to = own.join(from.file_name().unwrap_or_default());
        fs::copy(from, to).with_context(|| from.display().to_string())?;
    }
    println!("{}", own.display());
    Ok(ExitCode::SUCCESS)
}

/// Letters and digits of the device's name, the rest as dashes.
fn folder_name(device: &str) -> String {
    let words = device.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_by_letters_and_digits() {
        assert_eq!(folder_name("NVIDIA GeForce RTX 3080"), "nvidia-geforce-rtx-3080");
        assert_eq!(
            folder_name("llvmpipe (LLVM 19.1.7, 256 bits)"),
            "llvmpipe-llvm-19-1-7-256-bits"
        );
        assert_eq!(folder_name("../../etc"), "etc");
    }
}
