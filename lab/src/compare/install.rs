//! Installing the peers below the target folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::peer::{Contender, Start};
use drivers::workspace::{Workspace, describe};

const TORCH: &str = "torch==2.15.0";
/// What importing torch needs.
const TORCH_NEEDS: [&str; 8] = [
    "numpy",
    "sympy",
    "networkx",
    "jinja2",
    "fsspec",
    "filelock",
    "typing-extensions",
    "setuptools",
];
const LLAMA: &str = "@node-llama-cpp/linux-x64-vulkan@3.22.1";

/// Their wheels bring what they need.
const FERROTENSOR: &str = "ferrotensor==0.3.0";
const AULE: &str = "aule-attention==0.5.0";

/// This crate, whose times the others' are compared with.
pub(crate) const OWN: &str = "wgpu-attention";

/// Everything that is wanted, built or installed, or with the reason why it isn't.
pub(crate) fn contenders(
    workspace: &Workspace,
    offline: bool,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Contender>> {
    let installer = Installer::new(workspace, offline)?;
    let own = installer.own().map_err(|error| format!("{error:#}"));
    let mut contenders = vec![Contender { name: OWN, start: own }];
    for (name, start) in PEERS {
        if wanted(name) {
            let start = start(&installer).map_err(|error| format!("{error:#}"));
            contenders.push(Contender { name, start });
        }
    }
    Ok(contenders)
}

/// The folder of llama.cpp's prebuilt libraries.
pub(crate) fn llama_libraries(workspace: &Workspace) -> Result<PathBuf> {
    Installer::new(workspace, false)?.llama_libraries()
}

type Install = fn(&Installer<'_>) -> Result<Start>;

/// Every peer, in the order of the tables.
const PEERS: [(&str, Install); 11] = [
    ("PyTorch CPU flash", |installer| installer.torch()),
    ("llama.cpp CPU", |installer| installer.llama("cpu", &[])),
    ("llama.cpp Vulkan f32", |installer| {
        installer.llama("vulkan", &[("GGML_VK_DISABLE_F16", "1")])
    }),
    ("llama.cpp Vulkan", |installer| installer.llama("vulkan", &[])),
    ("ferrotensor GPU", |installer| installer.wheel(FERROTENSOR, "ferrotensor_peer.py")),
    ("aule Vulkan", |installer| installer.wheel(AULE, "aule_peer.py")),
    // The routine that burn may choose, and the newer ones that need no matrix instructions.
    ("cubek unit", |installer| installer.cubek(&["unit"])),
    ("cubek tile unit", |installer| installer.cubek(&["tile", "unit-attention"])),
    ("cubek cube shuffle", |installer| installer.cubek(&["tile", "cube-shuffle-attention"])),
    ("cubek hypercube shuffle", |installer| {
        installer.cubek(&["tile", "hypercube-second-launch-shuffle-attention"])
    }),
    ("burn", |installer| installer.burn()),
];

/// Where a contender stands in the tables.
pub(crate) fn place(name: &str) -> usize {
    let at = PEERS.iter().position(|(peer, _)| *peer == name);
    if name == OWN { 0 } else { at.map_or(usize::MAX, |at| at + 1) }
}

struct Installer<'a> {
    workspace: &'a Workspace,
    root: PathBuf,
    /// The folder of the peers' own sources.
    peers: PathBuf,
    offline: bool,
}

impl<'a> Installer<'a> {
    fn new(workspace: &'a Workspace, offline: bool) -> Result<Self> {
        let root = workspace.target().join("compare");
        std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        Ok(Self { root, peers: workspace.root().join("lab/peers"), workspace, offline })
    }

    fn own(&self) -> Result<Start> {
        let mut build = self.workspace.cargo("build");
        build.args(["--release", "--package", "wgpu-attention-tools", "--bench", "peer"]);
        build.args(["--message-format", "json"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = build.output().context("cargo could not be started")?;
        if !output.status.success() {
            bail!("`{}` failed: {}", describe(&build), output.status);
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let program = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "peer")
            .find_map(|message| message["executable"].as_str().map(OsString::from))
            .context("cargo named no program")?;
        Ok(Start { command: vec![program], environment: Vec::new(), on_device: true })
    }

    fn torch(&self) -> Result<Start> {
        let python = self.python()?;
        let stamp = self.root.join("torch.installed");
        self.once(&stamp, || {
            call(Command::new(&python).args(["-m", "pip", "install", "--no-deps", TORCH]))?;
            call(Command::new(&python).arg(self.peers.join("cuda_stubs.py")))
        })?;
        self.script(&python, "torch_peer.py", &[])
    }

    /// A package that is one wheel, and computes on the device.
    fn wheel(&self, package: &str, script: &str) -> Result<Start> {
        let python = self.python()?;
        self.once(&self.root.join(format!("{package}.installed")), || {
            call(Command::new(&python).args(["-m", "pip", "install", "--no-deps", package]))
        })?;
        Ok(Start { on_device: true, ..self.script(&python, script, &[])? })
    }

    fn llama(&self, backend: &str, environment: &[(&'static str, &'static str)]) -> Result<Start> {
        let python = self.python()?;
        let arguments = [self.llama_libraries()?.into_os_string(), backend.into()];
        let start = self.script(&python, "llama_peer.py", &arguments)?;
        Ok(Start { environment: environment.to_vec(), on_device: backend == "vulkan", ..start })
    }

    /// The folder of its prebuilt libraries.
    fn llama_libraries(&self) -> Result<PathBuf> {
        let folder = self.root.join("llama");
        self.once(&self.root.join("llama.installed"), || {
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            call(Command::new("npm").args(["pack", LLAMA]).current_dir(&folder))?;
            let packed = std::fs::read_dir(&folder)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
                .context("npm packed nothing")?;
            call(Command::new("tar").arg("xzf").arg(packed).current_dir(&folder))
        })?;
        Ok(folder.join("package/bins/linux-x64-vulkan"))
    }

    fn cubek(&self, arguments: &[&str]) -> Result<Start> {
        self.rust("cubek-peer", &[], arguments)
    }

    fn burn(&self) -> Result<Start> {
        self.rust("burn-peer", &["--features", "burn"], &[])
    }

    /// One of the programs of `peers/burn`.
    fn rust(&self, name: &str, features: &[&str], arguments: &[&str]) -> Result<Start> {
        let target = self.root.join("burn");
        let program = target.join("release").join(name);
        if !self.offline {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--release", "--locked", "--bin", name]).args(features);
            build.arg("--manifest-path").arg(self.peers.join("burn/Cargo.toml"));
            call(build.env("CARGO_TARGET_DIR", &target))?;
        } else if !program.is_file() {
            bail!("it isn't built, and --offline says not to");
        }
        let mut command = vec![program.into_os_string()];
        command.extend(arguments.iter().map(OsString::from));
        Ok(Start { command, environment: Vec::new(), on_device: true })
    }

    /// The Python of an environment of its own, with what the scripts need.
    fn python(&self) -> Result<PathBuf> {
        if std::env::consts::OS != "linux" {
            bail!("it is installed on Linux only");
        }
        let environment = self.root.join("venv");
        let python = environment.join("bin/python");
        self.once(&self.root.join("python.installed"), || {
            call(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            call(Command::new(&python).args(["-m", "pip", "install"]).args(TORCH_NEEDS))
        })?;
        Ok(python)
    }

    fn script(&self, python: &Path, name: &str, arguments: &[OsString]) -> Result<Start> {
        let mut command = vec![python.as_os_str().to_owned(), self.peers.join(name).into()];
        command.extend(arguments.iter().cloned());
        Ok(Start { command, environment: Vec::new(), on_device: false })
    }

    /// Does what the stamp says isn't done.
    fn once(&self, stamp: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
        if stamp.is_file() {
            return Ok(());
        }
        if self.offline {
            bail!("it isn't installed, and --offline says not to");
        }
        install()?;
        std::fs::write(stamp, "").with_context(|| stamp.display().to_string())
    }
}

fn call(command: &mut Command) -> Result<()> {
    eprintln!("{} …", describe(command));
    // Standard output belongs to the tables.
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{}` could not be started", describe(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", describe(command), output.status);
    }
    Ok(())
}
