//! A software driver below the target directory, and what programs need to run on it.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use crate::probe::Adapter;

/// By which programs that the tests start themselves run on the driver, too.
pub(crate) const RUNNER_VARIABLE: &str = "WGPU_ATTENTION_RUNNER";

/// A software driver below the target folder.
#[derive(Debug)]
pub(crate) struct Software {
    pub(crate) name: &'static str,
    /// The package it came in, and its version.
    pub(crate) package: String,
    /// What the probe found; `None` while it hasn't run.
    pub(crate) adapter: Option<Adapter>,
    /// Starts programs on the driver's C library.
    pub(crate) runner: PathBuf,
    pub(crate) api: Api,
    pub(crate) shader_cache: PathBuf,
}

/// By which API wgpu reaches a driver, and how the API's library finds it.
#[derive(Debug)]
pub(crate) enum Api {
    /// The manifest names the driver to the Vulkan loader.
    Vulkan { manifest: PathBuf },
    /// OpenGL through EGL: the folder of the libraries, and what names Mesa's EGL to the vendors' common one.
    Gl { libraries: PathBuf, vendor: PathBuf },
}

impl Software {
    /// What a program needs, apart from being started by the runner.
    pub(crate) fn environment(&self) -> Vec<(String, OsString)> {
        let mut pairs: Vec<(&str, OsString)> = match &self.api {
            Api::Vulkan { manifest } => vec![
                ("WGPU_BACKEND", "vulkan".into()),
                ("VK_DRIVER_FILES", manifest.clone().into()),
                // The loader of older releases knows it by this name.
                ("VK_ICD_FILENAMES", manifest.clone().into()),
                // Layers of the system were built for the system's C library, and record or draw over what they see.
                ("VK_LOADER_LAYERS_DISABLE", "~implicit~".into()),
            ],
            Api::Gl { libraries, vendor } => vec![
                ("WGPU_BACKEND", "gl".into()),
                ("__EGL_VENDOR_LIBRARY_FILENAMES", vendor.clone().into()),
                ("EGL_PLATFORM", "surfaceless".into()),
                ("LIBGL_DRIVERS_PATH", libraries.clone().into()),
                ("LIBGL_ALWAYS_SOFTWARE", "1".into()),
            ],
        };
        pairs.extend([
            // Shaders that were compiled once load a hundred times faster, also in the next test run.
            ("MESA_SHADER_CACHE_DIR", self.shader_cache.clone().into()),
            ("MESA_SHADER_CACHE_MAX_SIZE", "512M".into()),
            (RUNNER_VARIABLE, self.runner.clone().into()),
        ]);
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl fmt::Display for Software {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.package)?;
        match &self.adapter {
            Some(adapter) => write!(f, ": {}", adapter.brief()),
            None => Ok(()),
        }
    }
}

/// Sets variables for a command.
pub(crate) fn apply(command: &mut Command, environment: &[(String, OsString)]) {
    if environment.is_empty() {
        return;
    }
    // The user's choice among the system's adapters: none of them is there.
    command.env_remove("WGPU_ADAPTER_NAME");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
}
