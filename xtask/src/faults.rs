//! `cargo xtask faults`: the tests of what happens where the driver loses its device, or has no memory, at any call.
//!
//! `xtask/fault-layer` is the Vulkan layer that makes it do so. Whatever else runs in a process would fail with it, so that
//! these tests have one of their own, and are ignored in every other.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cargo::{Workspace, artifact};
use crate::driver::{self, Choice, Device};
use crate::report::Report;

/// The layer's name to the Vulkan loader.
const LAYER: &str = "VK_LAYER_WGPU_ATTENTION_faults";

/// Of the calls that may find no memory, CI tries each so many-th, which takes 40 seconds of CPU time and not 100.
pub(crate) const STRIDE_OF_CI: usize = 3;

/// What these tests are called in a report.
pub(crate) const NAME: &str = "a driver that fails at every call";

/// Why they can't be run here.
pub(crate) fn missing() -> Option<&'static str> {
    (std::env::consts::OS != "linux").then_some("a Vulkan loader is given layers on Linux only")
}

/// `cargo xtask faults`.
pub(crate) fn run(workspace: &Workspace, choice: Choice) -> Result<ExitCode> {
    let mut report = Report::default();
    match missing() {
        Some(reason) => report.skip(NAME, reason),
        None => {
            let device = driver::select(workspace, choice)?;
            report.run(format!("{NAME}, {device}"), &mut tests(workspace, &device, None)?)?;
        }
    }
    Ok(report.finish())
}

/// The run of these tests; with a stride, only each so many-th of the calls that may find no memory fails.
pub(crate) fn tests(
    workspace: &Workspace,
    device: &Device,
    stride: Option<usize>,
) -> Result<Command> {
    let layer = layer(workspace)?;
    let mut command = workspace.cargo("test");
    // As all tests are built.
    command.args(["--workspace", "--all-features", "--test", "device", "--"]);
    command.args(["--ignored", "faults::driver::", "--test-threads=1", "--nocapture"]);
    device.apply(&mut command);
    command
        .env("WGPU_BACKEND", "vulkan")
        .env("VK_LAYER_PATH", layer.manifest.parent().unwrap_or(&layer.manifest))
        .env("VK_INSTANCE_LAYERS", LAYER)
        .env("WGPU_ATTENTION_FAULT_LAYER", &layer.library)
        // Hundreds of devices compile a few kernels each. How fast these are doesn't matter, and Mesa's compiler for CPUs
        // takes half of its time without optimisation.
        .env("GALLIVM_PERF", "nopt");
    if let Some(stride) = stride {
        command.env("WGPU_ATTENTION_FAULT_STRIDE", stride.to_string());
    }
    Ok(command)
}

/// The layer, built, and what names it to the Vulkan loader.
struct Layer {
    library: PathBuf,
    manifest: PathBuf,
}

fn layer(workspace: &Workspace) -> Result<Layer> {
    let mut build = workspace.cargo("build");
    build.args(["--all-features", "--package", "fault-layer"]);
    let library = artifact(&mut build, "fault_layer", std::env::consts::DLL_EXTENSION)?;
    let folder = workspace.target().join("faults");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let manifest = folder.join("fault-layer.json");
    let json = serde_json::json!({
        "file_format_version": "1.2.0",
        "layer": {
            "name": LAYER,
            "type": "GLOBAL",
            "library_path": library,
            "api_version": "1.3.0",
            "implementation_version": "1",
            "description": "Makes the driver fail at a chosen call",
        },
    });
    fs::write(&manifest, format!("{json:#}\n"))
        .with_context(|| format!("writing {}", manifest.display()))?;
    Ok(Layer { library, manifest })
}
