//! `cargo xtask isa`: the kernels' machine code for real GPUs, on a machine that has none.
//!
//! RADV, Mesa's driver for AMD's GPUs, can pretend to have one; [`driver::radv`] fetches a release of it that does.
//! `xtask/null-gpu` makes a device of it that wgpu opens, `xtask/isa-kernels` compiles every kernel there, and what the
//! compiler prints is read ([`listing`]), taken apart ([`code`]) and laid out as tables ([`table`]).

mod code;
mod family;
mod listing;
mod start;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;

use crate::cargo::{Workspace, artifact, describe};
use crate::driver::{self, Radv};
use crate::progress::Steps;
use family::{FAMILIES, Family, OTHER_FAMILIES};
use listing::Compiled;

/// Which kernels, for which GPUs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only for these GPUs, by RADV's names; several times for several
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(FAMILIES.map(|family| family.name)))]
    family: Vec<String>,

    /// Only kernels with this in their name
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,

    /// Write docs/isa.md; it has all kernels for all GPUs
    #[arg(long, conflicts_with_all = ["family", "kernel"])]
    write: bool,

    /// Print what the compiler printed, machine code included, instead of the tables
    #[arg(long, conflicts_with = "write")]
    listing: bool,

    /// Instead, how long the first and the second start of a program wait for all kernels, with their pipelines kept on disk
    #[arg(long, conflicts_with_all = ["kernel", "write", "listing"])]
    start: bool,
}

/// `cargo xtask isa`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let radv = driver::radv(workspace)?;
    let compiler = Compiler::build(workspace, radv)?;
    let families: Vec<&Family> = FAMILIES
        .iter()
        .filter(|family| {
            options.family.is_empty() || options.family.iter().any(|name| name == family.name)
        })
        .collect();
    if options.start {
        let folder = workspace.target().join("isa-start");
        println!("{}", start::HEADER);
        for family in families {
            println!("{}", start::line(&compiler, family, &folder)?);
        }
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut compiled: Vec<(&Family, Vec<Compiled>)> = Vec::new();
    for family in families {
        let text = compiler.compile(family, options.kernel.as_deref())?;
        if options.listing {
            print!("{text}");
            continue;
        }
        let kernels = listing::parse(&text).with_context(|| format!("on {}", family.name))?;
        compiled.push((family, kernels));
    }
    if options.listing {
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows: Vec<table::Row<'_>> = compiled
        .iter()
        .flat_map(|(family, kernels)| kernels.iter().map(move |kernel| (*family, kernel)))
        .filter(|(_, kernel)| options.kernel.as_ref().is_none_or(|part| kernel.name.contains(part)))
        .collect();
    ensure!(
        !rows.is_empty(),
        "no kernel has {:?} in its name",
        options.kernel.as_deref().unwrap_or_default()
    );
    // Families stay in their order.
    let types = ["f32", "f16", "i8"];
    let place = |dtype: &str| types.iter().position(|other| *other == dtype);
    rows.sort_by_key(|(_, kernel)| (kernel.head_dim, place(&kernel.dtype)));
    let tables = table::markdown(&rows);
    if options.write {
        let path = workspace.root().join("docs/isa.md");
        fs::write(&path, document(&compiler.radv.package, &tables))
            .with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    } else {
        print!("{tables}");
    }
    Ok(ExitCode::SUCCESS)
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
    let compiler = Compiler::build(workspace, driver::radv(workspace)?)?;
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

/// The text of docs/isa.md around the tables.
fn document(package: &str, tables: &str) -> String {
    let chips: Vec<String> =
        FAMILIES.iter().map(|family| format!("{} ({})", family.name, family.chips)).collect();
    include_str!("isa.md")
        .replace("PACKAGE", package)
        .replace("FAMILIES", &chips.join(", "))
        .replace("TABLES\n", tables)
        .trim_end()
        .to_owned()
        + "\n"
}

/// Everything that compiling takes.
struct Compiler {
    radv: Radv,
    /// The program that compiles all kernels.
    program: PathBuf,
    /// Names the driver to the Vulkan loader.
    manifest: PathBuf,
}

impl Compiler {
    fn build(workspace: &Workspace, radv: Radv) -> Result<Self> {
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
    fn compile(&self, family: &Family, filter: Option<&str>) -> Result<String> {
        let mut command = self.command(family);
        command.args(filter).env("RADV_DEBUG", "asm,shaderstats,nocache");
        let done = self.run(&mut command, family)?;
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// The program, on a GPU of a family.
    fn command(&self, family: &Family) -> Command {
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

    fn run(&self, command: &mut Command, family: &Family) -> Result<Output> {
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
