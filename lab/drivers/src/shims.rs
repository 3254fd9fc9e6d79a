//! Drivers for GPUs that aren't there.
//!
//! Mesa's own tests have libraries that answer what a driver asks the kernel: preloaded, they let the driver for a real GPU
//! open one, compile for it and submit work, which nothing executes. So its compiler's output can be read on any machine.
//! Debian's package has none for Intel's GPUs, and `lab/intel-shim` is one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::closure::loader_in;

/// Mesa's drivers for GPUs that aren't there.
#[derive(Debug)]
pub struct Shims {
    /// The package that they came in, and its version.
    pub package: String,
    /// `lib` has the drivers, the shims and what both need; a manifest per driver names it to the Vulkan loader.
    pub(crate) folder: PathBuf,
    /// The shim for Intel's GPUs, which isn't in the package.
    pub(crate) intel_shim: PathBuf,
    /// Has what the compiler for NVIDIA's GPUs prints written in large pieces.
    pub(crate) print_shim: PathBuf,
}

/// One of the drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuDriver {
    /// For NVIDIA's GPUs.
    Nvk,
    /// For AMD's.
    Radv,
    /// For Apple's.
    Honeykrisp,
    /// For Qualcomm's Adreno.
    Turnip,
    /// For Intel's.
    Anv,
}

impl GpuDriver {
    pub(crate) const ALL: [Self; 5] =
        [Self::Nvk, Self::Radv, Self::Honeykrisp, Self::Turnip, Self::Anv];

    /// As its package names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nvk => "nouveau",
            Self::Radv => "radeon",
            Self::Honeykrisp => "asahi",
            Self::Turnip => "freedreno",
            Self::Anv => "intel",
        }
    }

    pub(crate) fn library(self) -> String {
        format!("libvulkan_{}.so", self.name())
    }

    /// The shim in Debian's package, if it has one.
    pub(crate) fn packaged_shim(self) -> Option<String> {
        let kernel_driver = match self {
            Self::Radv => "amdgpu",
            Self::Anv => return None,
            _ => self.name(),
        };
        Some(format!("lib{kernel_driver}_noop_drm_shim.so"))
    }

    pub(crate) fn manifest(self) -> String {
        format!("{}.json", self.name())
    }
}

impl Shims {
    /// Starts a program on one of the drivers. Which GPU there is, and what its compiler prints, variables of the driver say.
    ///
    /// # Errors
    /// Where the folder has no dynamic loader.
    pub fn command(&self, driver: GpuDriver, program: &Path) -> Result<Command> {
        let libraries = self.folder.join("lib");
        let manifest = self.folder.join(driver.manifest());
        let shim = match driver.packaged_shim() {
            Some(name) => libraries.join(name),
            None => self.intel_shim.clone(),
        };
        let mut preloaded = shim.into_os_string();
        if driver == GpuDriver::Nvk {
            preloaded.push(":");
            preloaded.push(&self.print_shim);
        }
        // Not by LD_PRELOAD, which the system's programs would inherit.
        let mut command = Command::new(loader_in(&libraries)?);
        command
            .arg("--library-path")
            .arg(&libraries)
            .arg("--preload")
            .arg(preloaded)
            .arg(program)
            .env_remove("WGPU_ADAPTER_NAME")
            .env("WGPU_BACKEND", "vulkan")
            .env("VK_DRIVER_FILES", &manifest)
            .env("VK_ICD_FILENAMES", &manifest)
            .env("VK_LOADER_LAYERS_DISABLE", "~implicit~")
            // What is in the cache isn't compiled, and not printed.
            .env("MESA_SHADER_CACHE_DISABLE", "true");
        Ok(command)
    }
}
