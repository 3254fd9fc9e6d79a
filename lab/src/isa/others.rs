//! Others' attention kernels, by the same compilers: llama.cpp's from the prebuilt libraries that `cargo xtask compare` installs,
//! wavo's from its package.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drivers::workspace::{Workspace, output};

use super::compiler::Compiler;
use super::gpu::Gpu;
use super::listing::Compiled;
use crate::compare;

/// What makes llama.cpp compile them.
pub(super) struct Llama {
    libraries: PathBuf,
    script: PathBuf,
    /// The program itself: what is in the path may be a script that chooses one.
    python: PathBuf,
}

/// llama.cpp takes matrices where a device has them, and these variables keep it from that.
const WITHOUT_MATRICES: [&str; 2] = ["GGML_VK_DISABLE_COOPMAT", "GGML_VK_DISABLE_COOPMAT2"];

impl Llama {
    pub(super) fn install(workspace: &Workspace) -> Result<Self> {
        let path = "import os, sys; print(os.path.realpath(sys.executable))";
        let python = output(Command::new("python3").args(["-c", path]))?;
        Ok(Self {
            libraries: compare::llama_libraries(workspace)?,
            script: workspace.root().join("lab/peers/llama_kernels.py"),
            python: python.trim().into(),
        })
    }

    /// What the GPU's compiler makes of its kernels without matrices, and of those with them where the GPU has some.
    pub(super) fn compile(&self, compiler: &Compiler, gpu: Gpu) -> Result<Vec<Compiled>> {
        let mut compiled = Vec::new();
        for (name, matrices) in [("scalar", false), ("matrix", true)] {
            if matrices && !gpu.has_matrices() {
                continue;
            }
            let mut command = compiler.shims.command(gpu.driver, &self.python)?;
            command.arg(&self.script).arg(&self.libraries).arg(name).envs(gpu.environment());
            if !matrices {
                command.envs(WITHOUT_MATRICES.map(|name| (name, "1")));
            }
            match compiler.listing(gpu, &format!("llama-{name}"), command, |_| {}) {
                // It ends with this where a device lacks what all its kernels need, as Adreno 630 does.
                Err(error) if error.to_string().contains("Unsupported device") => {}
                listing => compiled.extend(listing?),
            }
        }
        Ok(compiled)
    }
}

/// wavo's package, unpacked.
pub(super) struct Wavo {
    folder: PathBuf,
}

/// The version, and its checksum in crates.io's index.
const WAVO: (&str, &str) =
    ("0.3.1", "655f50efbe0916f7267d8afa1635b81e7d05f20131043195966441b6c907a1f2");

impl Wavo {
    pub(super) fn install(workspace: &Workspace) -> Result<Self> {
        let (version, checksum) = WAVO;
        let root = workspace.target().join("isa-others");
        let folder = root.join(format!("wavo-{version}"));
        if folder.is_dir() {
            return Ok(Self { folder });
        }
        fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        let package = root.join("wavo.crate");
        let address = format!("https://static.crates.io/crates/wavo/wavo-{version}.crate");
        eprintln!("fetching wavo {version} (200 KiB) …");
        output(Command::new("curl").args(["-fsSL", &address, "-o"]).arg(&package))?;
        let sum = output(Command::new("sha256sum").arg(&package))?;
        ensure!(sum.starts_with(checksum), "{address} isn't what it was: its checksum is {sum}");
        output(Command::new("tar").arg("xzf").arg(&package).current_dir(&root))?;
        Ok(Self { folder })
    }

    /// What the GPU's compiler makes of its kernel of matrices, which is for subgroups of 32.
    pub(super) fn compile(&self, compiler: &Compiler, gpu: Gpu) -> Result<Vec<Compiled>> {
        if !gpu.has_matrices() {
            return Ok(Vec::new());
        }
        let mut command = compiler.command(gpu)?;
        command.arg("--wavo").arg(&self.folder);
        compiler.listing(gpu, "wavo", command, |_| {})
    }
}
