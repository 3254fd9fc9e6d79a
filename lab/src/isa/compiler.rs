//! RADV's compiler, on the kernels.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use drivers::Radv;
use drivers::progress::Steps;
use drivers::workspace::{Workspace, artifact, describe};

use super::family::{FAMILIES, Family, OTHER_FAMILIES};
use super::listing::{self, Compiled};

/// Everything that compiling takes.
pub(super) struct Compiler {
    pub(super) radv: Radv,
    /// The program that compiles all kernels.
    program: PathBuf,
    /// Names the driver to the Vulkan loader.
    manifest: PathBuf,
}

impl Compiler {
    pub(super) fn build(workspace: &Workspace, radv: Radv) -> Result<Self> {
        // The whole workspace, so that shared dependencies have the features that all other tasks build them with.
        let mut program = workspace.cargo("build");
        program.args(["--workspace", "--all-features", "--bin", "isa-kernels"]);
        let mut driver = workspace.cargo("build");
        driver.args(["--all-features", "--package", "null-gpu"]);
        let program = artifact(&mut program, "isa-kernels", std::env::consts::EXE_EXTENSION)?;
        let driver = artifact(&mut driver, "null_gpu", std::env::consts::DLL_EXTENSION)?;
        let manifest = radv.folder.join("null-gpu.json");
        let json = serde_json::json!({
            "file_format_version": "1.0.1",
            "ICD": { "api_version": "1.4.305", "library_path": driver },
        });
        fs::write(&manifest, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", manifest.display()))?;
        Ok(Self { radv, program, manifest })
    }

    /// What the driver prints while all kernels are compiled for a family.
    pub(super) fn compile(&self, family: &Family, filter: Option<&str>) -> Result<String> {
        let mut command = self.command(family);
        command.args(filter).env("RADV_DEBUG", "asm,shaderstats,nocache");
        let done = self.run(&mut command, family)?;
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// The program, on a GPU of a family.
    pub(super) fn command(&self, family: &Family) -> Command {
        let mut command = Command::new(self.radv.folder.join("run"));
        command
            .arg(&self.program)
            .args(family.is_wave32().then_some("--without-subgroups"))
            .env("WGPU_BACKEND", "vulkan")
            // Its last lines are shown where it fails.
            .env("RUST_BACKTRACE", "0")
            .env_remove("WGPU_ADAPTER_NAME")
            // It checks indirect dispatches by a kernel of its own, which would be in the report.
            .env("WGPU_VALIDATION_INDIRECT_CALL", "0")
            .env("VK_DRIVER_FILES", &self.manifest)
            .env("VK_LOADER_LAYERS_DISABLE", "~implicit~")
            .env("NULL_GPU_RADV", self.radv.folder.join("lib/libvulkan_radeon.so"))
            .envs(family.environment());
        command
    }

    pub(super) fn run(&self, command: &mut Command, family: &Family) -> Result<Output> {
        let done = command
            .output()
            .with_context(|| format!("`{}` could not be started", describe(command)))?;
        if !done.status.success() {
            let text = String::from_utf8_lossy(&done.stderr);
            let lines: Vec<&str> = text.lines().collect();
            bail!(
                "kernels can't be compiled for {} with {}:\n{}",
                family.name,
                self.radv.package,
                lines[lines.len().saturating_sub(10)..].join("\n")
            );
        }
        Ok(done)
    }
}

/// What every family's compiler made of the kernels.
pub(crate) struct Everywhere {
    /// The driver's package.
    pub(crate) package: String,
    pub(crate) families: Vec<(&'static str, Result<Spills>)>,
}

/// The kernels that were compiled for a family, and whether their registers spill.
type Spills = Vec<(String, bool)>;

/// Compiles all kernels for all families, those of the report and the others.
pub(crate) fn compile_everywhere(workspace: &Workspace) -> Result<Everywhere> {
    let compiler = Compiler::build(workspace, drivers::radv(workspace)?)?;
    let progress = Steps::new("RADV");
    progress.set_total((FAMILIES.len() + OTHER_FAMILIES.len()) as u64);
    let families = FAMILIES
        .iter()
        .chain(&OTHER_FAMILIES)
        .map(|family| {
            let listing = compiler.compile(family, None).and_then(|text| listing::parse(&text));
            progress.step();
            let kernels = listing.map(|kernels| {
                let spills = |kernel: &Compiled| kernel.stats.spilled + kernel.stats.scratch > 0;
                kernels.into_iter().map(|kernel| (kernel.name.clone(), spills(&kernel))).collect()
            });
            (family.name, kernels)
        })
        .collect();
    progress.finish();
    Ok(Everywhere { package: compiler.radv.package, families })
}
