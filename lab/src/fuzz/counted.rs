//! The programs of `lab/fuzz/libfuzzer`, built with libFuzzer's counters in a few packages.
//!
//! The counters are flags of rustc, which stable cargo can't give to single packages. So this program stands between cargo and
//! rustc and adds them by the crate's name. All else is compiled as for the project's tests: in the same target folder, by the
//! same versions, features and profile, it isn't compiled again. Packages with counters have one codegen unit, by which
//! cargo tells them from the same packages without.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use drivers::Unavailable;
use drivers::workspace::{Workspace, artifacts, own_program};

/// What libFuzzer is to find its way through.
const COUNTED: [&str; 5] =
    ["wgpu-attention", "wgpu-attention-tools", "fuzz-targets", "safetensors", "serde_json"];

/// Compiles WGSL. With counters in it, half of wgpu is compiled once more.
const NAGA: &str = "naga";

/// Names the crates, for this program in rustc's place.
const VARIABLE: &str = "WGPU_ATTENTION_FUZZ_COUNTED";

const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Builds programs; their files in the same order.
pub(super) fn build(workspace: &Workspace, names: &[&str], naga: bool) -> Result<Vec<PathBuf>> {
    let packages: Vec<&str> = COUNTED.into_iter().chain(naga.then_some(NAGA)).collect();
    let crates = packages.join(" ").replace('-', "_");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--locked", "--manifest-path"])
        .arg(workspace.root().join("lab/fuzz/libfuzzer/Cargo.toml"))
        .env("CARGO_TARGET_DIR", workspace.target())
        .env("RUSTC_WRAPPER", own_program()?)
        .env(VARIABLE, crates);
    for package in packages {
        cargo.arg("--config").arg(format!("profile.dev.package.{package}.codegen-units=1"));
    }
    for name in names {
        cargo.args(["--bin", name]);
    }
    artifacts(&mut cargo, names, std::env::consts::EXE_EXTENSION)
}

/// Fails where it is known beforehand that libFuzzer can't be built.
pub(super) fn ensure_available() -> Result<(), Unavailable> {
    if cfg!(not(unix)) {
        return Err(Unavailable("the counters are for Linux and macOS alone".to_owned()));
    }
    // As the package `cc` chooses.
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let program = compiler.split_whitespace().next().unwrap_or_default();
    let found = Command::new(program).arg("--version").output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Unavailable(format!(
            "`{compiler}`, the C++ compiler that libFuzzer is built with, can't be started: install g++ or clang, or set CXX"
        ))),
    }
}

/// Where cargo called this program in rustc's place: rustc, with the flags if the crate is among those named.
pub(crate) fn compile() -> Option<Result<ExitCode>> {
    let crates = std::env::var(VARIABLE).ok()?;
    let mut call = std::env::args_os().skip(1);
    let rustc = call.next()?;
    let arguments: Vec<OsString> = call.collect();
    let flags: &[&str] = if is_counted(&arguments, &crates) { &FLAGS } else { &[] };
    let status = Command::new(&rustc).args(&arguments).args(flags).status();
    Some(
        status
            .context("rustc could not be started")
            .map(|status| if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    )
}

fn is_counted(arguments: &[OsString], crates: &str) -> bool {
    let name = arguments.iter().skip_while(|&argument| argument != "--crate-name").nth(1);
    name.is_some_and(|name| crates.split(' ').any(|other| name == other))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    #[test]
    fn crates_are_told_by_their_names() {
        let counted = |text: &str| {
            let arguments: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            is_counted(&arguments, "wgpu_attention naga")
        };
        assert!(counted("--crate-name naga --edition 2024 src/lib.rs"));
        assert!(!counted("--crate-name naga_types --edition 2024 naga"));
        assert!(!counted("--crate-name build_script_build naga"));
        assert!(!counted("-vV"));
    }

    /// Otherwise CI compiles wgpu once more.
    #[test]
    fn the_versions_are_those_of_the_project() {
        const LOCK: &str = "lab/fuzz/libfuzzer/Cargo.lock";
        let versions = |path: &str| {
            let path = Workspace::locate().unwrap().root().join(path);
            let text = fs::read_to_string(path).unwrap();
            let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for package in text.split("[[package]]").skip(1) {
                let field = |key: &str| {
                    let line = package.lines().find_map(|line| line.strip_prefix(key));
                    line.unwrap().trim_matches('"').to_owned()
                };
                versions.entry(field("name = ")).or_default().push(field("version = "));
            }
            versions
        };
        let (project, fuzz) = (versions("Cargo.lock"), versions(LOCK));
        assert!(fuzz.contains_key("naga"));
        for (name, versions) in &fuzz {
            if let Some(there) = project.get(name) {
                assert!(
                    versions.iter().all(|version| there.contains(version)),
                    "{name} is {versions:?} in {LOCK}, {there:?} in Cargo.lock: copy that one over, cargo leaves out what \
                     isn't needed"
                );
            }
        }
    }
}
