//! `cargo xtask portability`: every kernel on every driver and compiler that needs no GPU.
//!
//! A [`Check`] makes a column of the tables in docs/portability.md. Its [`Column`] is kept in docs/portability/ when it was
//! made, so that a column can be made anew alone and the page ([`page`]) be written from all of them.

mod browser;
mod column;
mod compilers;
mod devices;
mod gpus;
mod layer;
mod page;
mod proofs;
mod run;
mod store;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use drivers::workspace::Workspace;

use column::{Check, Column};
use store::{Store, write};

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

    let devices: Vec<Check> = wanted.iter().copied().filter(|check| check.runs_tests()).collect();
    if !devices.is_empty() {
        let tests = devices::Tests::build(workspace, &options.tests, options.unoptimised)?;
        for check in devices {
            report(check, tests.run(workspace, &store, check))?;
        }
    }
    if wanted.contains(&Check::Gpus) {
        report(Check::Gpus, gpus::run(workspace))?;
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
