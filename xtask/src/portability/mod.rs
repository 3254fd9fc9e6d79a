//! `cargo xtask portability`: every kernel on every driver and compiler that needs no GPU.
//!
//! A [`Check`] is a column of the tables in docs/portability.md. Its [`Column`] is kept in docs/portability/ when it was
//! made, so that a column can be made anew alone and the page ([`page`]) be written from all of them.

mod browser;
mod compilers;
mod devices;
mod page;
mod radv;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cargo::Workspace;

/// Check every kernel on every driver and compiler that needs no GPU: run and right, compiled, or refused with a reason
///
/// Everything that it takes is fetched below the target folder (Linux with apt; pip and npm for two of the compilers).
/// What can't be had is reported as missing, and so fails the command.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Only these checks; several times for several
    #[arg(long, value_enum, value_name = "CHECK")]
    only: Vec<Check>,

    /// Only device tests, and cases of the page, with this in their names; several times for several. What such runs of a
    /// driver find adds up, and the page says what is missing
    #[arg(long, value_name = "TEXT")]
    tests: Vec<String>,

    /// On Mesa's drivers, leave the optimisation out that takes most of the time which these tests take; the page says so.
    /// Under the validation layer, which doesn't see machine code, it is always left out
    #[arg(long)]
    unoptimised: bool,

    /// Write docs/portability.md, from these checks and from the others' last results
    #[arg(long)]
    write: bool,

    /// Run nothing: write docs/portability.md from the last results of all checks
    #[arg(long, conflicts_with_all = ["only", "tests", "write"])]
    write_only: bool,

    /// The subset that CI runs: all kernels through naga's writers
    #[arg(long, conflicts_with_all = ["only", "tests", "write", "write_only"])]
    quick: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask portability                         everything; takes an hour or two on two cores
  cargo xtask portability --only gl --only tint   llvmpipe through OpenGL, and Chromium's compiler
  cargo xtask portability --only swiftshader --tests kernels:: --write
  cargo xtask portability --write-only            the page, from what was found before
  cargo xtask portability --quick                 what CI runs

Results are kept in docs/portability; what a driver or compiler printed is in target/portability/logs.";

/// A driver or a compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// The device tests on lavapipe of Debian 12, Mesa 22.3
    LavapipeOldest,
    /// The device tests on lavapipe of Debian 12's backports, Mesa 25.0
    LavapipeOlder,
    /// The device tests on lavapipe, the newest that there is
    Lavapipe,
    /// The device tests on SwiftShader
    Swiftshader,
    /// The device tests on llvmpipe, through wgpu's OpenGL backend
    Gl,
    /// The device tests on lavapipe under Vulkan's validation layer, synchronisation included
    Validation,
    /// RADV's compiler for all families of AMD's GPUs that it can pretend
    Radv,
    /// SPIR-V, through spirv-val
    Spirv,
    /// HLSL, through DXC for shader model 6.0
    #[value(name = "hlsl-6.0")]
    Hlsl60,
    /// HLSL, through DXC for shader model 6.2 with 16-bit types
    #[value(name = "hlsl-6.2")]
    Hlsl62,
    /// Metal's language 2.4, written by naga; no compiler for it is at hand
    #[value(name = "msl-2.4")]
    Msl24,
    /// Metal's language 3.1, written by naga; no compiler for it is at hand
    #[value(name = "msl-3.1")]
    Msl31,
    /// GLSL ES 3.1, through glslang
    #[value(name = "glsl-es-3.1")]
    Glsl,
    /// Tint, Chromium's compiler, as Dawn has it for Node
    Tint,
    /// The crate built for browsers, in headless Chromium, compared with the reference there
    Browser,
}

impl Check {
    /// What naga writes, or what is compiled from it.
    const TRANSLATED: [Self; 6] =
        [Self::Spirv, Self::Hlsl60, Self::Hlsl62, Self::Msl24, Self::Msl31, Self::Glsl];

    /// The name on the command line.
    fn name(self) -> String {
        // No value is skipped.
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Column {
    /// The column's head.
    title: String,
    /// What ran, in a line: versions, numbers.
    summary: String,
    /// By the kernel's name.
    cells: BTreeMap<String, Cell>,
    /// What failed outside of a cell.
    failures: Vec<String>,
    /// The device tests that it is about, if any.
    run: Option<devices::Run>,
}

/// What became of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cell {
    /// It ran, and so many tests found it right.
    Right(usize),
    /// So many of its texts were compiled.
    Compiled(usize),
    /// It isn't for this place, for this reason.
    Refused(String),
    Failed(String),
}

impl Column {
    /// Everything that failed, in words.
    fn failures(&self) -> Vec<String> {
        let cells = self.cells.iter().filter_map(|(kernel, cell)| match cell {
            Cell::Failed(message) => Some(format!("{kernel}: {message}")),
            _ => None,
        });
        cells.chain(self.failures.iter().cloned()).collect()
    }
}

/// Where results and tools are kept.
#[derive(Debug)]
struct Store {
    root: PathBuf,
    results: PathBuf,
}

impl Store {
    fn result(&self, check: Check) -> PathBuf {
        self.results.join(check.name() + ".json")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(name)
    }

    fn keep(&self, check: Check, column: &Column) -> Result<()> {
        write(&self.result(check), &(serde_json::to_string_pretty(column)? + "\n"))
    }

    /// The last result, if there is one.
    fn find(&self, check: Check) -> Result<Option<Column>> {
        let path = self.result(check);
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display())).map(Some)
    }
}

/// Writes a file and the folders that it is in.
fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// `cargo xtask portability`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let store = Store {
        root: workspace.target().join("portability"),
        results: workspace.root().join("docs/portability"),
    };
    if options.write_only {
        write_page(workspace, &store)?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: Vec<Check> = match (options.quick, options.only.is_empty()) {
        (true, _) => Check::TRANSLATED.to_vec(),
        (false, true) => Check::value_variants().to_vec(),
        (false, false) => options.only.clone(),
    };
    let mut failed = false;
    let mut report = |check: Check, result: Result<Column>| -> Result<()> {
        let column = match result {
            Ok(column) => column,
            Err(error) => {
                failed = true;
                eprintln!("{}: FAILED\n  {error:#}", check.name());
                return Ok(());
            }
        };
        if !options.quick {
            store.keep(check, &column)?;
        }
        let failures = column.failures();
        let word = if failures.is_empty() { "ok" } else { "FAILED" };
        eprintln!("{}: {word}; {}", check.name(), column.summary);
        for failure in &failures {
            eprintln!("  {}", failure.replace('\n', "\n    "));
        }
        failed |= !failures.is_empty();
        Ok(())
    };

    let devices: Vec<Check> =
        wanted.iter().copied().filter(|check| devices::is_one(*check)).collect();
    if !devices.is_empty() {
        let tests = devices::Tests::build(workspace, &options.tests, options.unoptimised)?;
        for check in devices {
            report(check, tests.run(workspace, &store, check))?;
        }
    }
    if wanted.contains(&Check::Radv) {
        report(Check::Radv, radv::run(workspace))?;
    }
    let translated: Vec<Check> =
        wanted.iter().copied().filter(|check| Check::TRANSLATED.contains(check)).collect();
    if !translated.is_empty() {
        match compilers::translate(workspace, &store, &translated, options.quick) {
            Ok(columns) => {
                for (check, column) in translated.into_iter().zip(columns) {
                    report(check, Ok(column))?;
                }
            }
            Err(error) => report(translated[0], Err(error))?,
        }
    }
    if wanted.contains(&Check::Tint) {
        report(Check::Tint, compilers::tint(workspace, &store))?;
    }

    if wanted.contains(&Check::Browser) {
        report(Check::Browser, browser::run(workspace, &store, &options.tests))?;
    }

    if options.write {
        write_page(workspace, &store)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// docs/portability.md from the last results of every check.
fn write_page(workspace: &Workspace, store: &Store) -> Result<()> {
    let columns: Vec<(Check, Column)> = Check::value_variants()
        .iter()
        .filter_map(|&check| Some((check, store.find(check).transpose()?)))
        .map(|(check, column)| Ok((check, column?)))
        .collect::<Result<_>>()?;
    let path = workspace.root().join("docs/portability.md");
    write(&path, &page::markdown(&columns))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
