//! `cargo xtask isa`: the kernels' machine code for real GPUs, on a machine that has none.
//!
//! RADV, Mesa's driver for AMD's GPUs, can pretend to have one; [`drivers::radv`] fetches a release of it that does.
//! `lab/null-gpu` makes a device of it that wgpu opens, `lab/isa-kernels` compiles every kernel there, and what the
//! compiler prints is read ([`listing`]), taken apart ([`code`]) and laid out as tables ([`table`]).

mod code;
mod compiler;
mod family;
mod listing;
mod start;
mod table;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;
use drivers::workspace::Workspace;

use compiler::Compiler;
pub(crate) use compiler::compile_everywhere;
use family::{FAMILIES, Family};
use listing::Compiled;

/// Which kernels, for which GPUs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only for these GPUs, by RADV's names; several times for several
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(FAMILIES.map(|family| family.name)))]
    family: Vec<String>,

    /// Only kernels with this in their name
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,

    /// Write docs/isa.md; it has all kernels for all GPUs
    #[arg(long, conflicts_with_all = ["family", "kernel"])]
    write: bool,

    /// Print what the compiler printed, machine code included, instead of the tables
    #[arg(long, conflicts_with = "write")]
    listing: bool,

    /// Instead, how long the first and the second start of a program wait for all kernels, with their pipelines kept on disk
    #[arg(long, conflicts_with_all = ["kernel", "write", "listing"])]
    start: bool,
}

/// `cargo xtask isa`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let radv = drivers::radv(workspace)?;
    let compiler = Compiler::build(workspace, radv)?;
    let families: Vec<&Family> = FAMILIES
        .iter()
        .filter(|family| {
            options.family.is_empty() || options.family.iter().any(|name| name == family.name)
        })
        .collect();
    if options.start {
        let folder = workspace.target().join("isa-start");
        println!("{}", start::HEADER);
        for family in families {
            println!("{}", start::line(&compiler, family, &folder)?);
        }
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut compiled: Vec<(&Family, Vec<Compiled>)> = Vec::new();
    for family in families {
        let text = compiler.compile(family, options.kernel.as_deref())?;
        if options.listing {
            print!("{text}");
            continue;
        }
        let kernels = listing::parse(&text).with_context(|| format!("on {}", family.name))?;
        compiled.push((family, kernels));
    }
    if options.listing {
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows: Vec<table::Row<'_>> = compiled
        .iter()
        .flat_map(|(family, kernels)| kernels.iter().map(move |kernel| (*family, kernel)))
        .filter(|(_, kernel)| options.kernel.as_ref().is_none_or(|part| kernel.name.contains(part)))
        .collect();
    ensure!(
        !rows.is_empty(),
        "no kernel has {:?} in its name",
        options.kernel.as_deref().unwrap_or_default()
    );
    // Families stay in their order.
    let types = ["f32", "f16", "i8"];
    let place = |dtype: &str| types.iter().position(|other| *other == dtype);
    rows.sort_by_key(|(_, kernel)| (kernel.head_dim, place(&kernel.dtype)));
    let tables = table::markdown(&rows);
    if options.write {
        let path = workspace.root().join("docs/isa.md");
        fs::write(&path, document(&compiler.radv.package, &tables))
            .with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    } else {
        print!("{tables}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of docs/isa.md around the tables.
fn document(package: &str, tables: &str) -> String {
    let chips: Vec<String> =
        FAMILIES.iter().map(|family| format!("{} ({})", family.name, family.chips)).collect();
    include_str!("isa.md")
        .replace("PACKAGE", package)
        .replace("FAMILIES", &chips.join(", "))
        .replace("TABLES\n", tables)
        .trim_end()
        .to_owned()
        + "\n"
}
