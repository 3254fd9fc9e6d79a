//! Builds the page: its code for browsers (`lab/web/page`), the program that packs and serves it (`lab/web/host`), and the
//! site.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use drivers::workspace::{Workspace, artifact, output, run_to_end};

/// What browsers run.
const TARGET: &str = "wasm32-unknown-unknown";

/// What the page loads besides its own files: names there, paths here.
const EXTRA: [(&str, &str); 3] = [
    ("data/minilm-layer0.safetensors", "data/minilm-layer0.safetensors"),
    ("data/minilm-layer3.safetensors", "data/minilm-layer3.safetensors"),
    ("masks", "docs/masks"),
];

/// The site, and the program that serves it.
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) host: PathBuf,
}

/// Builds all of it.
pub(crate) fn site(workspace: &Workspace) -> Result<Site> {
    let wasm = page(workspace)?;
    let mut cargo = build(workspace, "host", &workspace.target().join("web/host"));
    let host = artifact(&mut cargo, "host", std::env::consts::EXE_EXTENSION)?;
    let folder = workspace.target().join("site");
    let mut pack = Command::new(&host);
    pack.arg("pack").arg("--wasm").arg(wasm);
    pack.arg("--files").arg(workspace.root().join("lab/web/site"));
    for (name, path) in EXTRA {
        let mut extra = OsString::from(format!("{name}="));
        extra.push(workspace.root().join(path));
        pack.arg("--extra").arg(extra);
    }
    output(pack.arg("--site").arg(&folder))?;
    Ok(Site { folder, host })
}

impl Site {
    /// The call of the program with one of its tasks.
    pub(crate) fn host(&self, task: &str) -> Command {
        let mut command = Command::new(&self.host);
        command.arg(task).arg("--site").arg(&self.folder);
        command
    }

    /// Serves the site until the program is stopped.
    pub(crate) fn serve(&self, port: u16) -> Result<std::process::ExitCode> {
        run_to_end(self.host("serve").arg("--port").arg(port.to_string()))
    }
}

/// Builds the page's code.
fn page(workspace: &Workspace) -> Result<PathBuf> {
    // A folder of its own: what follows would have the host's dependencies built again and again.
    let mut cargo = build(workspace, "page", &workspace.target().join("web/page"));
    cargo.args(["--release", "--target", TARGET]);
    if let Some(library) = library_source(workspace)? {
        // Cargo builds the library from its source, which it does for nightly compilers alone otherwise.
        cargo.arg("-Zbuild-std=std,panic_abort");
        cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    artifact(&mut cargo, "page", "wasm")
}

/// Where the source of Rust's library is, unless the library itself is installed for the target.
fn library_source(workspace: &Workspace) -> Result<Option<OsString>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let ask = |arguments: &[&str]| output(Command::new(&rustc).args(arguments));
    let installed = ask(&["--print", "target-libdir", "--target", TARGET])?;
    if Path::new(installed.trim()).is_dir() {
        return Ok(None);
    }
    let sysroot = ask(&["--print", "sysroot"])?;
    let component = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if component.join("Cargo.lock").is_file() {
        return Ok(Some(component.into()));
    }
    let version = ask(&["-vV"])?;
    let release = release(&version).context("`rustc -vV` named no release")?;
    let library = drivers::rust_library(workspace, release).with_context(|| {
        format!("there is no {TARGET}: `rustup target add {TARGET}` installs it where rustup can")
    })?;
    Ok(Some(library.into()))
}

fn release(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("release: "))
}

/// A build of one of the two packages, in a workspace of their own.
fn build(workspace: &Workspace, package: &str, target: &Path) -> Command {
    eprintln!("build of lab/web/{package} …");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--package", package, "--manifest-path"]);
    build.arg(workspace.root().join("lab/web/Cargo.toml"));
    build.arg("--target-dir").arg(target);
    build
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read() {
        assert_eq!(release("rustc 1.95.0\nhost: x\nrelease: 1.95.0\n"), Some("1.95.0"));
    }
}
