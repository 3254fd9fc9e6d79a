//! `cargo xtask isa`: the kernels' machine code for real GPUs, on a machine that has none.
//!
//! [`drivers::shims`] has Mesa's drivers for GPUs that aren't there. `lab/isa-kernels` compiles every kernel on them, and what
//! their compilers print is read ([`listing`]) and laid out as tables ([`table`]), beside what they make of others' kernels
//! ([`others`]). [`code`] counts what a step over the keys takes.

mod code;
mod compiler;
mod gpu;
mod listing;
mod others;
mod plot;
mod start;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;
use drivers::workspace::Workspace;

pub(crate) use compiler::compile_everywhere;
use compiler::{Compiler, Selection};
use gpu::{GPUS, Gpu};
use others::{Llama, Wavo};
use table::Row;

/// Which kernels, for which GPUs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only for these GPUs; several times for several
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(GPUS.map(|gpu| gpu.name)))]
    gpu: Vec<String>,

    #[command(flatten)]
    selection: Selection,

    /// Compile llama.cpp's and wavo's kernels, too
    #[arg(long, conflicts_with_all = ["check", "start"])]
    beside: bool,

    /// Keep what the compilers print in this folder, and read what is there instead of compiling again
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["kernel", "head_dim", "check", "start"])]
    printed: Option<PathBuf>,

    /// Write docs/isa.md, isa.svg and isa.json, which have all kernels for these GPUs, llama.cpp's and wavo's, too
    #[arg(long, conflicts_with_all = ["kernel", "head_dim"])]
    write: bool,

    /// Print what the compiler printed instead of the tables
    #[arg(long, conflicts_with = "write")]
    listing: bool,

    /// Fail if one of a few kernels for NVIDIA's, Apple's and Intel's GPUs has in memory what was meant for registers: what CI runs
    #[arg(long, conflicts_with_all = ["gpu", "kernel", "head_dim", "write", "listing"])]
    check: bool,

    /// Instead, how long the first and the second start of a program wait for all kernels, with their pipelines kept on disk
    #[arg(long, conflicts_with_all = ["kernel", "head_dim", "write", "listing", "check"])]
    start: bool,
}

/// GPUs that the page has columns of: one per vendor.
const COLUMNS: [&str; 5] = ["ga102", "navi31", "m1", "a740", "dg2"];

/// GPUs that its tables of work per step have lines for: what neighbours among the others repeat is in the JSON.
const LINES: [&str; 7] = ["ga102", "navi21", "navi31", "gfx1201", "m1", "a740", "dg2"];

/// What CI compiles: on the compilers that unroll least and have fewest registers.
const CHECKED_GPUS: [&str; 3] = ["ga102", "m1", "tgl"];
const CHECKED: [(&str, usize); 4] =
    [("forward tiled", 128), ("backward", 64), ("forward matrix", 128), ("forward decode", 128)];

/// `cargo xtask isa`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let shims = drivers::shims(workspace)?;
    if let Some(folder) = &options.printed {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let compiler = Compiler::build(workspace, shims, options.printed.clone())?;
    let is_wanted =
        |gpu: &Gpu| options.gpu.is_empty() || options.gpu.iter().any(|name| name == gpu.name);
    let gpus: Vec<Gpu> = GPUS.into_iter().filter(is_wanted).collect();
    if options.start {
        return starts(workspace, &compiler, &gpus);
    }
    if options.check {
        return check(&compiler);
    }
    let install = || anyhow::Ok((Llama::install(workspace)?, Wavo::install(workspace)?));
    let others = (options.beside || options.write).then(install).transpose()?;
    let mut rows = Vec::new();
    for &gpu in &gpus {
        let mut compiled = compiler.compile(gpu, &options.selection, |line| {
            if options.listing {
                println!("{line}");
            }
        })?;
        if let Some((llama, wavo)) = &others {
            compiled.extend(llama.compile(&compiler, gpu)?);
            compiled.extend(wavo.compile(&compiler, gpu)?);
        }
        eprintln!("{}: {} kernels", gpu.name, compiled.len());
        rows.extend(compiled.into_iter().map(|compiled| Row { gpu: gpu.name, compiled }));
    }
    if options.listing {
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!rows.is_empty(), "no kernel is called so; see lab/isa-kernels/src/main.rs");
    if options.write {
        write(workspace, &compiler.shims.package, &rows, &gpus)?;
    } else {
        print!("{}{}", table::steps(&rows, &gpus), table::markdown(&rows, &gpus));
    }
    Ok(ExitCode::SUCCESS)
}

fn starts(workspace: &Workspace, compiler: &Compiler, gpus: &[Gpu]) -> Result<ExitCode> {
    let folder = workspace.target().join("isa-start");
    println!("{}", start::HEADER);
    for &gpu in gpus {
        println!("{}", start::line(compiler, gpu, &folder)?);
    }
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn check(compiler: &Compiler) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for gpu in GPUS.into_iter().filter(|gpu| CHECKED_GPUS.contains(&gpu.name)) {
        for (kernel, head_dim) in CHECKED {
            let compiled = compiler.compile(gpu, &Selection::of(kernel, head_dim), |_| {})?;
            rows.extend(compiled.into_iter().map(|compiled| Row { gpu: gpu.name, compiled }));
        }
    }
    let in_memory = table::in_memory(&rows);
    ensure!(
        in_memory.is_empty(),
        "what was meant for registers lies in memory; an array that a loop indexes, or a tile that is too large? \
         (`cargo xtask isa` shows all)\n  {}",
        in_memory.join("\n  ")
    );
    println!(
        "{} kernels for {}: no local memory, scratch or spills",
        rows.len(),
        CHECKED_GPUS.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

fn write(workspace: &Workspace, package: &str, rows: &[Row], gpus: &[Gpu]) -> Result<()> {
    let docs = workspace.root().join("docs");
    // A kernel per line.
    let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let json = format!("{{\"package\": {package:?}, \"compiled\": [\n{}\n]}}\n", lines.join(",\n"));
    let named = |names: &[&str]| -> Vec<Gpu> {
        gpus.iter().filter(|gpu| names.contains(&gpu.name)).copied().collect()
    };
    let columns = named(&COLUMNS);
    let chips: Vec<String> =
        gpus.iter().map(|gpu| format!("{} ({})", gpu.name, gpu.chips)).collect();
    let in_memory = match table::in_memory(rows) {
        none if none.is_empty() => "No kernel does, on any of the GPUs.".to_owned(),
        some => some.iter().map(|line| format!("- {line}")).collect::<Vec<_>>().join("\n"),
    };
    let page = include_str!("isa.md")
        .replace("PACKAGE", package)
        .replace("GPUS", &chips.join(", "))
        .replace("COUNT", &rows.iter().filter(|row| !row.is_others()).count().to_string())
        .replace("IN_MEMORY", &in_memory)
        .replace("STEPS\n", &table::steps(rows, &named(&LINES)))
        .replace("TABLES\n", &table::markdown(&table::of_page(rows), &columns));
    let page = page.trim_end().to_owned() + "\n";
    for (name, text) in
        [("isa.json", json), ("isa.md", page), ("isa.svg", plot::steps(rows, &columns))]
    {
        let path = docs.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
