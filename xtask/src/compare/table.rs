//! What came out, as text and as Markdown.

use std::fmt::Write as _;
use std::process::Command;

use super::case::{Case, Difference};
use super::install::OWN;
use super::peer::Run;

/// What the page begins with.
const PREFACE: &str = "\
# Beside others

`cargo xtask compare --write docs/comparison.md` installs the peers below the target folder, runs all of them in turns on
this machine, one call each, and writes this page. Operands are f32, uniform in [-2, 2); times are medians of whole calls,
from the host's call until the result is there; CPU time is that of all of the process's threads. Ratios are times over
those of wgpu-attention. Each result is compared with attention in f64 on 64 rows of every head: the relative error is
the norm of the difference over the norm of the result, and more than 2e-3 is wrong; of gradients, dq, dk and dv of two kv
heads are compared. PyTorch and llama.cpp's CPU kernels
run on the processor itself, the others on the Vulkan device, which here is the same processor: so CPU time is what compares
them, and other programs on the machine count in the medians.
";

/// One contender's part of a case.
pub(crate) struct Cell {
    difference: Option<Difference>,
    runs: Vec<Run>,
    missing: Option<String>,
}

/// Everything.
pub(crate) struct Table {
    device: String,
    contenders: Vec<(&'static str, Result<String, String>)>,
    rows: Vec<(String, f64, Vec<Cell>)>,
}

impl Cell {
    pub(crate) const fn new(difference: Difference) -> Self {
        Self { difference: Some(difference), runs: Vec::new(), missing: None }
    }

    pub(crate) const fn missing(reason: String) -> Self {
        Self { difference: None, runs: Vec::new(), missing: Some(reason) }
    }

    pub(crate) const fn is_running(&self) -> bool {
        self.missing.is_none()
    }

    pub(crate) fn add(&mut self, run: Result<Run, String>) {
        match run {
            Ok(run) => self.runs.push(run),
            Err(reason) => self.missing = Some(reason),
        }
    }

    fn median(&self, time: impl Fn(&Run) -> f64) -> Option<f64> {
        if self.missing.is_some() {
            return None;
        }
        let mut times: Vec<f64> = self.runs.iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }

    fn ms(&self) -> Option<f64> {
        self.median(|run| run.ms)
    }

    fn cpu_ms(&self) -> Option<f64> {
        self.median(|run| run.cpu_ms)
    }

    fn is_right(&self) -> bool {
        self.difference.is_some_and(|difference| difference.is_right())
    }
}

impl Table {
    pub(crate) fn new(
        device: &str,
        contenders: Vec<(&'static str, Result<String, String>)>,
    ) -> Self {
        Self { device: device.to_owned(), contenders, rows: Vec::new() }
    }

    /// Adds a case, and returns its part as text.
    pub(crate) fn add(&mut self, case: &Case, cells: Vec<Cell>) -> String {
        self.rows.push((case.name.clone(), case.operations(), cells));
        self.rows.last().map(|row| self.text(row)).unwrap_or_default()
    }

    /// Whether this crate's results are right wherever it ran.
    pub(crate) fn all_right(&self) -> bool {
        self.rows.iter().all(|(_, _, cells)| cells.first().is_some_and(Cell::is_right))
    }

    fn text(&self, (name, operations, cells): &(String, f64, Vec<Cell>)) -> String {
        let mut text = format!(
            "{name}\n  {:<24}{:>11}{:>11}{:>9}{:>10}{:>10}{:>8}{:>11}\n",
            "", "median", "CPU time", "GFLOP/s", "ratio", "CPU ratio", "rounds", "rel. error"
        );
        for line in self.lines(*operations, cells) {
            // Writing to a String can't fail.
            let _ = match line.cells {
                Ok([ms, cpu, gflops, ratio, cpu_ratio, rounds, error]) => writeln!(
                    text,
                    "  {:<24}{ms:>11}{cpu:>11}{gflops:>9}{ratio:>10}{cpu_ratio:>10}{rounds:>8}{error:>11}",
                    line.name
                ),
                Err(reason) => writeln!(text, "  {:<24}  not there: {reason}", line.name),
            };
        }
        text
    }

    fn lines<'a>(&'a self, operations: f64, cells: &'a [Cell]) -> impl Iterator<Item = Line<'a>> {
        let own = cells.first();
        let of = move |time: Option<f64>, own: Option<f64>| match (time, own) {
            (Some(time), Some(own)) => format!("{:.2}", time / own),
            _ => "-".to_owned(),
        };
        self.contenders.iter().zip(cells).map(move |((name, _), cell)| {
            let found = match (&cell.missing, cell.ms(), cell.cpu_ms()) {
                (None, Some(ms), Some(cpu)) => Ok([
                    format!("{ms:.1} ms"),
                    format!("{cpu:.1} ms"),
                    format!("{:.1}", operations / ms * 1e-6),
                    of(Some(ms), own.and_then(Cell::ms)),
                    of(Some(cpu), own.and_then(Cell::cpu_ms)),
                    cell.runs.len().to_string(),
                    match cell.difference {
                        Some(Difference { relative, .. }) if cell.is_right() => {
                            format!("{relative:.0e}")
                        }
                        Some(Difference { relative, .. }) => format!("{relative:.0e} WRONG"),
                        None => "-".to_owned(),
                    },
                ]),
                (Some(reason), ..) => Err(reason.as_str()),
                _ => Err("it didn't run"),
            };
            Line { name, cells: found }
        })
    }

    /// The peers' CPU times over this crate's, a line for each peer.
    pub(crate) fn ratios(&self) -> String {
        let mut text = format!("CPU time of the peers over that of {OWN}, right results only\n");
        for (at, (name, about)) in self.contenders.iter().enumerate().skip(1) {
            let mut ratios: Vec<f64> = (self.rows.iter())
                .filter(|(_, _, cells)| cells[at].is_right())
                .filter_map(|(_, _, cells)| Some(cells[at].cpu_ms()? / cells[0].cpu_ms()?))
                .collect();
            ratios.sort_by(f64::total_cmp);
            let _ = match (ratios.first(), ratios.last(), about) {
                (Some(least), Some(most), _) => {
                    writeln!(text, "  {name:<24}{least:.2} to {most:.2}, {} shapes", ratios.len())
                }
                (_, _, Err(reason)) => writeln!(text, "  {name:<24}not there: {reason}"),
                _ => writeln!(text, "  {name:<24}no right result"),
            };
        }
        text
    }

    /// The same as a page.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = format!(
            "{PREFACE}\nRun on {}, {} with {} cores. Device: {}.\n\n| contender | what it is |\n|---|---|\n",
            said(Command::new("date").args(["-u", "+%F"])),
            processor(),
            std::thread::available_parallelism().map_or(0, usize::from),
            self.device
        );
        for (name, about) in &self.contenders {
            let about = match about {
                Ok(about) => about.clone(),
                Err(reason) => format!("not there: {reason}"),
            };
            let _ = writeln!(text, "| {name} | {} |", about.replace('|', "/"));
        }
        for (name, operations, cells) in &self.rows {
            let _ = write!(
                text,
                "\n### {name}\n\n| | median | CPU time | GFLOP/s | ratio | CPU ratio | rounds | rel. error |\n\
                 |---|---|---|---|---|---|---|---|\n"
            );
            for line in self.lines(*operations, cells) {
                let _ = match line.cells {
                    Ok(cells) => writeln!(text, "| {} | {} |", line.name, cells.join(" | ")),
                    Err(reason) => {
                        writeln!(
                            text,
                            "| {} | not there: {} | | | | | | |",
                            line.name,
                            reason.replace('|', "/")
                        )
                    }
                };
            }
        }
        let _ = write!(text, "\n```text\n{}```\n", self.ratios());
        text
    }
}

/// What a command prints, or that it's unknown.
fn said(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "an unknown day".to_owned())
}

/// The processor's name, where Linux tells it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| "an unknown processor".to_owned())
}

struct Line<'a> {
    name: &'static str,
    cells: Result<[String; 7], &'a str>,
}
