//! The device that tools run on, and how it is chosen.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use crate::browser::Chromium;
use crate::host::Older;
use crate::mpi::Mpi;
use crate::probe::Adapter;
use crate::program::Unavailable;
use crate::provision::Provisioner;
use crate::shims::Shims;
use crate::software::{RUNNER_VARIABLE, Software};
use crate::workspace::{Workspace, artifacts, quoted};
use crate::{apt, closure, host, probe, software};

/// Which device the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The machine's GPU where wgpu finds one, else lavapipe
    Auto,
    /// Whatever wgpu finds on the system as it is
    System,
    /// Mesa's Vulkan driver for CPUs, fetched below the target folder
    Lavapipe,
    /// Chromium's Vulkan driver for CPUs, fetched below the target folder (Debian)
    Swiftshader,
}

impl Choice {
    /// The environment variable that sets the driver where the option doesn't.
    pub const VARIABLE: &str = "WGPU_ATTENTION_DRIVER";

    /// The option, else the environment variable, else the default.
    pub fn from_option_or_environment(option: Option<Self>) -> Result<Self> {
        match (option, std::env::var(Self::VARIABLE)) {
            (Some(choice), _) => Ok(choice),
            (None, Ok(text)) if !text.is_empty() => Self::from_str(&text, true).map_err(|_| {
                anyhow!(
                    "{} is {text:?}; it can be auto, system, lavapipe or swiftshader",
                    Self::VARIABLE
                )
            }),
            (None, _) => Ok(Self::Auto),
        }
    }
}

impl fmt::Display for Choice {
    /// As `--driver` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No value is skipped.
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// A device to run on.
#[derive(Debug)]
pub struct Device {
    /// What it is, in words.
    description: String,
    /// What a program needs in its environment to find it.
    environment: Vec<(String, OsString)>,
}

impl Device {
    fn system(adapter: &Adapter) -> Self {
        Self { description: format!("the system's {adapter}"), environment: Vec::new() }
    }

    fn software(workspace: &Workspace, software: &Software) -> Self {
        let mut environment = software.environment();
        environment.push((workspace.runner_variable(), software.runner.clone().into()));
        Self { description: software.to_string(), environment }
    }

    /// Whether it is lavapipe, which takes several times as long as SwiftShader to compile a kernel.
    pub fn is_lavapipe(&self) -> bool {
        self.description.starts_with("lavapipe")
    }

    /// Makes a command, and the programs that cargo starts for it, run on the device.
    pub fn apply(&self, command: &mut Command) {
        software::apply(command, &self.environment);
    }

    /// What programs have to be started by, where the driver needs it.
    pub fn runner(&self) -> Option<&OsString> {
        let found = self.environment.iter().find(|(name, _)| name == RUNNER_VARIABLE);
        found.map(|(_, runner)| runner)
    }

    /// What starts a program that needs further libraries, which lie in `libraries`: the program's own arguments follow.
    pub fn launcher(&self, program: &Path, libraries: Option<&Path>) -> Result<Vec<OsString>> {
        let (Some(runner), Some(libraries)) = (self.runner(), libraries) else {
            return Ok(self.runner().into_iter().cloned().chain([program.into()]).collect());
        };
        // The runner's own `ld.so`, told of both folders: the driver's libraries are the newer ones, and come first.
        let own = Path::new(runner).with_file_name("lib");
        let ld_so = closure::loader_in(&own)?;
        let paths = std::env::join_paths([own.as_path(), libraries])?;
        Ok(vec![ld_so.into(), "--library-path".into(), paths, program.into()])
    }

    /// The environment as shell code.
    pub fn to_shell(&self) -> String {
        let mut text = format!("# {}\n", self.description);
        if self.environment.is_empty() {
            text += "# wgpu finds it as things are; there is nothing to set.\n";
        }
        for (name, value) in &self.environment {
            text += &format!("export {name}={}\n", quoted(value));
        }
        text
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Makes Mesa's drivers for CPUs compile kernels without optimising them, in half the time and less. Their shader cache tells
/// such kernels apart; others pay no heed.
pub fn leave_unoptimised(command: &mut Command) {
    command.env("GALLIVM_PERF", "nopt");
}

/// Settles on the device, and fetches its driver if need be.
pub fn select(workspace: &Workspace, choice: Choice) -> Result<Device> {
    match choice {
        Choice::Auto => auto(workspace),
        Choice::System => match probe::adapters().first() {
            Some(adapter) => Ok(Device::system(adapter)),
            None => bail!(
                "wgpu finds no adapter on this system; the other choices of --driver need none. {}",
                host::advice()
            ),
        },
        Choice::Lavapipe => {
            let software = provisioner(workspace)?.lavapipe().with_context(|| {
                format!("lavapipe can't be had here without help. {}", host::advice())
            })?;
            Ok(Device::software(workspace, &software))
        }
        Choice::Swiftshader => {
            let mut provisioner = provisioner(workspace)?;
            if let Err(reason) = provisioner.has_swiftshader() {
                bail!(
                    "SwiftShader can't be fetched: {reason}. Choose another driver, such as lavapipe"
                );
            }
            Ok(Device::software(workspace, &provisioner.swiftshader()?))
        }
    }
}

fn auto(workspace: &Workspace) -> Result<Device> {
    let adapters = probe::adapters();
    let first = adapters.first();
    if let Some(gpu) = first.filter(|adapter| adapter.is_gpu()) {
        return Ok(Device::system(gpu));
    }
    match (provisioner(workspace).and_then(|mut provisioner| provisioner.lavapipe()), first) {
        (Ok(software), _) => Ok(Device::software(workspace, &software)),
        // The system has a software driver of its own: offline, or where there is no apt, that will do.
        (Err(error), Some(adapter)) => {
            eprintln!("{error:#}\nusing the system's own software driver instead");
            Ok(Device::system(adapter))
        }
        (Err(error), None) => Err(error.context(format!(
            "wgpu finds no GPU on this system, and no software driver could be fetched. {}",
            host::advice()
        ))),
    }
}

/// The device of the second pass of the tests.
#[derive(Debug)]
pub enum Second {
    /// SwiftShader.
    Device(Device),
    /// SwiftShader can't be had on this system, for this reason.
    Unavailable(String),
    /// There is to be no second pass.
    Unwanted,
}

/// Settles on the device of the second pass, which is SwiftShader where it isn't that of the first.
pub fn second(workspace: &Workspace, first: Choice) -> Result<Second> {
    if first == Choice::Swiftshader {
        return Ok(Second::Unwanted);
    }
    if std::env::consts::OS != "linux" {
        return Ok(Second::Unavailable("it is fetched on Linux only".into()));
    }
    let mut provisioner = provisioner(workspace)?;
    match provisioner.has_swiftshader() {
        Err(reason) => Ok(Second::Unavailable(reason)),
        Ok(()) => Ok(Second::Device(Device::software(workspace, &provisioner.swiftshader()?))),
    }
}

/// Mesa's drivers for GPUs that aren't there, fetched if need be; they can compile kernels and not run them.
///
/// # Errors
/// [`Unavailable`] where the system isn't Debian; where the packages can't be fetched.
pub fn shims(workspace: &Workspace) -> Result<Shims> {
    if std::env::consts::OS != "linux" {
        return Err(Unavailable("GPUs that aren't there need Linux".to_owned()).into());
    }
    let mut build = workspace.cargo("build");
    build.args(["--all-features", "--package", "intel-shim", "--package", "print-shim"]);
    let names = ["intel_shim", "print_shim"];
    let mut own = artifacts(&mut build, &names, std::env::consts::DLL_EXTENSION)?.into_iter();
    let [intel_shim, print_shim] = [(); 2].map(|()| own.next().expect("a file for each name"));
    provisioner(workspace)?.shims(intel_shim, print_shim)
}

/// An MPI, fetched if need be; if none can be had here, why.
pub fn mpi(workspace: &Workspace) -> Result<Result<Mpi, String>> {
    if std::env::consts::OS == "linux" && apt::Apt::ensure_available().is_ok() {
        return provisioner(workspace)?.mpi().map(Ok);
    }
    Ok(Mpi::of_the_system())
}

/// A driver that the tests run on besides those of [`select`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// An older lavapipe.
    Older(Older),
    /// Mesa's OpenGL for CPUs.
    Gl,
}

/// One of the further drivers, fetched if need be.
pub fn extra(workspace: &Workspace, extra: Extra) -> Result<Device> {
    let mut provisioner = provisioner(workspace)?;
    let software = match extra {
        Extra::Older(older) => provisioner.older_lavapipe(older)?,
        Extra::Gl => provisioner.llvmpipe()?,
    };
    Ok(Device::software(workspace, &software))
}

/// The folder of Vulkan's validation layer, and the package that it came in; fetched if need be.
pub fn validation_layer(workspace: &Workspace) -> Result<(PathBuf, String)> {
    provisioner(workspace)?.validation_layer()
}

/// The folder of programs that check SPIR-V and GLSL, fetched if need be.
pub fn tools(workspace: &Workspace) -> Result<PathBuf> {
    provisioner(workspace)?.tools()
}

/// Chromium, fetched if need be.
pub fn chromium(workspace: &Workspace) -> Result<Chromium> {
    provisioner(workspace)?.chromium()
}

/// The folder of Rust's library in the source of this version, fetched if need be.
pub fn rust_library(workspace: &Workspace, version: &str) -> Result<PathBuf> {
    provisioner(workspace)?.rust_library(version)
}

/// Removes the drivers that were fetched.
pub fn forget(workspace: &Workspace) -> Result<()> {
    provisioner(workspace)?.forget()
}

fn provisioner(workspace: &Workspace) -> Result<Provisioner> {
    if std::env::consts::OS != "linux" {
        bail!("software drivers are fetched on Linux only");
    }
    Provisioner::start(&workspace.target().join("drivers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::software::Api;

    #[test]
    fn the_option_wins() {
        let choice = Choice::from_option_or_environment(Some(Choice::System)).unwrap();
        assert_eq!(choice, Choice::System);
    }

    #[test]
    fn the_environment_is_shell_code() {
        let device = Device {
            description: "lavapipe".into(),
            environment: vec![("A".into(), "/plain".into()), ("B".into(), "a b".into())],
        };
        assert_eq!(device.to_shell(), "# lavapipe\nexport A=/plain\nexport B='a b'\n");
    }

    #[test]
    fn cargo_and_the_tests_learn_of_the_runner() {
        let workspace = Workspace::locate().unwrap();
        let software = Software {
            name: "lavapipe",
            package: "mesa-vulkan-drivers 26".into(),
            adapter: None,
            runner: "/d/lavapipe/run".into(),
            api: Api::Vulkan { manifest: "/d/lavapipe/icd.json".into() },
            shader_cache: "/d/shader-cache".into(),
        };
        let mut command = Command::new("cargo");
        Device::software(&workspace, &software).apply(&mut command);
        let value = |name: &str| {
            command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value)
        };
        assert_eq!(value(&workspace.runner_variable()).unwrap(), "/d/lavapipe/run");
        assert_eq!(value("WGPU_ATTENTION_RUNNER").unwrap(), "/d/lavapipe/run");
        assert_eq!(value("VK_DRIVER_FILES").unwrap(), "/d/lavapipe/icd.json");
        assert_eq!(value("LD_LIBRARY_PATH"), None);
    }
}
