//! `cargo xtask faults`: the tests of what happens where the driver loses its device, or has no memory, at any call.
//!
//! `lab/fault-layer` is the Vulkan layer that makes it do so. Whatever else runs in a process would fail with it, so that
//! these tests have one of their own, and are ignored in every other.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use drivers::workspace::{Workspace, artifact, run_to_end};
use drivers::{Choice, Unavailable};

/// The layer's name to the Vulkan loader.
const LAYER: &str = "VK_LAYER_WGPU_ATTENTION_faults";

/// Which calls fail.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Of the calls that may find no memory, try each so many-th
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    stride: u32,

    /// Only tests whose names start like this, such as `the_driver_fails`
    #[arg(default_value = "", hide_default_value = true)]
    start: String,
}

/// `cargo xtask faults`.
pub(crate) fn run(workspace: &Workspace, choice: Choice, options: &Options) -> Result<ExitCode> {
    if std::env::consts::OS != "linux" {
        let reason = "a Vulkan loader is given layers on Linux only";
        return Err(Unavailable(reason.to_owned()).into());
    }
    let device = drivers::select(workspace, choice)?;
    eprintln!("running on {device}");
    let layer = layer(workspace)?;
    let mut command = workspace.cargo("test");
    // As all tests are built.
    command.args(["--workspace", "--all-features", "--test", "device", "--"]);
    command.args(["--ignored", "--test-threads=1", "--nocapture"]);
    command.arg(format!("faults::driver::{}", options.start));
    device.apply(&mut command);
    command
        .env("WGPU_BACKEND", "vulkan")
        .env("VK_LAYER_PATH", layer.manifest.parent().unwrap_or(&layer.manifest))
        .env("VK_INSTANCE_LAYERS", LAYER)
        .env("WGPU_ATTENTION_FAULT_LAYER", &layer.library)
        // Hundreds of devices compile a few kernels each. How fast these are doesn't matter, and Mesa's compiler for CPUs
        // takes half of its time without optimisation.
        .env("GALLIVM_PERF", "nopt")
        .env("WGPU_ATTENTION_FAULT_STRIDE", options.stride.to_string());
    run_to_end(&mut command)
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
