//! What came out: a row for each contender of each shape, on the terminal and in a file that further runs add to.
//!
//! A row knows its run, and the times that this crate took in the same run: only these are what it's compared with.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::case::Case;
use super::difference::Difference;
use super::install::{self, OWN};
use super::peer::Run;

/// The rows of one run, or of several.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(super) runs: Vec<About>,
    pub(super) rows: Vec<Row>,
}

/// A run of the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) id: usize,
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) processor: String,
    pub(crate) device: String,
}

/// A contender's part of a shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) shape: String,
    pub(super) contender: String,
    /// Its version and what it ran on.
    pub(super) about: String,
    pub(super) run: usize,
    outcome: Outcome,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Measured(Measured),
    /// Why there is no time, and whether it was tried.
    Missing {
        reason: String,
        tried: bool,
    },
}

/// Medians in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    ms: f64,
    cpu_ms: f64,
    /// This crate's in the same run, where it has any.
    own: Option<[f64; 2]>,
    operations: f64,
    rounds: usize,
    relative_error: f64,
    right: bool,
}

/// A contender's calls of one shape, while it runs.
pub(crate) struct Calls {
    difference: Option<Difference>,
    runs: Vec<Run>,
    missing: Option<String>,
}

impl Calls {
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

    /// The medians, by the wall and of CPU time.
    fn medians(&self) -> Option<[f64; 2]> {
        let median = |time: fn(&Run) -> f64| {
            let mut times: Vec<f64> = self.runs.iter().map(time).collect();
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied()
        };
        match self.missing {
            None => Some([median(|run| run.ms)?, median(|run| run.cpu_ms)?]),
            Some(_) => None,
        }
    }

    fn outcome(&self, operations: f64, own: Option<[f64; 2]>, tried: bool) -> Outcome {
        match (&self.missing, self.medians(), self.difference) {
            (None, Some([ms, cpu_ms]), Some(difference)) => Outcome::Measured(Measured {
                ms,
                cpu_ms,
                own,
                operations,
                rounds: self.runs.len(),
                relative_error: difference.relative,
                right: difference.is_right(),
            }),
            (reason, ..) => {
                let reason = reason.clone().unwrap_or_else(|| "it didn't run".to_owned());
                Outcome::Missing { reason, tried }
            }
        }
    }
}

impl Results {
    /// Those of a run that has just begun.
    pub(crate) fn of(about: About) -> Self {
        Self { runs: vec![about], rows: Vec::new() }
    }

    /// Adds a shape, and returns its part as text. The first contender is this crate.
    pub(crate) fn add(
        &mut self,
        case: &Case,
        contenders: &[(&'static str, Result<String, String>)],
        calls: &[Calls],
    ) -> String {
        let run = self.runs.last().map_or(0, |run| run.id);
        let own = calls.first().and_then(Calls::medians);
        for ((name, about), calls) in contenders.iter().zip(calls) {
            self.rows.push(Row {
                shape: case.name.clone(),
                contender: (*name).to_owned(),
                about: about.clone().unwrap_or_else(|reason| format!("not there: {reason}")),
                run,
                outcome: calls.outcome(case.operations(), own, about.is_ok()),
            });
        }
        self.text(&case.name)
    }

    /// Whether this crate's results are right wherever it ran.
    pub(crate) fn all_right(&self) -> bool {
        let is_right = |row: &Row| matches!(&row.outcome, Outcome::Measured(m) if m.right);
        self.rows.iter().filter(|row| row.contender == OWN).all(is_right)
    }

    /// What a file keeps; nothing, where there is none yet.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Takes over the rows of a new run, in place of those of the same shape and contender. What wasn't tried, since it isn't
    /// installed, takes no place.
    pub(crate) fn merge(&mut self, mut new: Self) {
        let next = self.runs.iter().map(|run| run.id).max().map_or(1, |id| id + 1);
        for run in &mut new.runs {
            run.id += next;
        }
        for row in &mut new.rows {
            row.run += next;
        }
        for row in new.rows {
            let at = (self.rows.iter())
                .position(|old| old.shape == row.shape && old.contender == row.contender);
            match at {
                Some(_) if matches!(row.outcome, Outcome::Missing { tried: false, .. }) => {}
                Some(at) => self.rows[at] = row,
                None => self.rows.push(row),
            }
        }
        self.runs.extend(new.runs);
        self.runs.retain(|run| self.rows.iter().any(|row| row.run == run.id));
        let shapes: Vec<String> = super::case::all().into_iter().map(|case| case.name).collect();
        let place = |row: &Row| {
            let shape = shapes.iter().position(|shape| *shape == row.shape);
            (shape.unwrap_or(usize::MAX), install::place(&row.contender))
        };
        self.rows.sort_by_key(place);
    }

    pub(super) fn of_shape(&self, shape: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.shape == shape)
    }

    fn text(&self, shape: &str) -> String {
        let mut text = format!(
            "{shape}\n  {:<24}{:>11}{:>11}{:>9}{:>10}{:>10}{:>8}{:>11}\n",
            "", "median", "CPU time", "GFLOP/s", "ratio", "CPU ratio", "rounds", "rel. error"
        );
        for row in self.of_shape(shape) {
            // Writing to a String can't fail.
            let _ = match row.cells() {
                Ok([ms, cpu, gflops, ratio, cpu_ratio, rounds, error]) => writeln!(
                    text,
                    "  {:<24}{ms:>11}{cpu:>11}{gflops:>9}{ratio:>10}{cpu_ratio:>10}{rounds:>8}{error:>11}",
                    row.contender
                ),
                Err(reason) => writeln!(text, "  {:<24}  not there: {reason}", row.contender),
            };
        }
        text
    }

    /// In the order of their first row.
    pub(super) fn distinct<'a>(&'a self, what: impl Fn(&'a Row) -> &'a str) -> Vec<&'a str> {
        let mut found: Vec<&str> = Vec::new();
        for row in &self.rows {
            let text = what(row);
            if !found.contains(&text) {
                found.push(text);
            }
        }
        found
    }

    /// The peers' CPU times over this crate's, a line for each peer.
    pub(crate) fn ratios(&self) -> String {
        let mut text = format!("CPU time of the peers over that of {OWN}, right results only\n");
        let mut contenders = self.distinct(|row| &row.contender);
        contenders.sort_by_key(|name| install::place(name));
        for name in contenders.into_iter().filter(|name| *name != OWN) {
            let rows = || self.rows.iter().filter(|row| row.contender == name);
            let mut ratios: Vec<f64> = rows().filter_map(Row::right_cpu_ratio).collect();
            ratios.sort_by(f64::total_cmp);
            let untried = rows().find_map(|row| match &row.outcome {
                Outcome::Missing { reason, tried: false } => Some(reason),
                _ => None,
            });
            let _ = match (ratios.first(), ratios.last(), untried) {
                (Some(least), Some(most), _) => {
                    writeln!(text, "  {name:<24}{least:.2} to {most:.2}, {} shapes", ratios.len())
                }
                (_, _, Some(reason)) => writeln!(text, "  {name:<24}not there: {reason}"),
                _ => writeln!(text, "  {name:<24}no right result"),
            };
        }
        text
    }
}

impl Row {
    pub(super) fn right_cpu_ratio(&self) -> Option<f64> {
        match &self.outcome {
            Outcome::Measured(measured) if measured.right => {
                measured.own.map(|[_, own]| measured.cpu_ms / own)
            }
            _ => None,
        }
    }

    /// What its line shows, or why there's nothing.
    pub(super) fn cells(&self) -> Result<[String; 7], &str> {
        let measured = match &self.outcome {
            Outcome::Measured(measured) => measured,
            Outcome::Missing { reason, .. } => return Err(reason),
        };
        let Measured { ms, cpu_ms, operations, rounds, relative_error, right, .. } = measured;
        let ratio = |at: usize, time: f64| match measured.own {
            Some(own) => format!("{:.2}", time / own[at]),
            None => "-".to_owned(),
        };
        Ok([
            format!("{ms:.1} ms"),
            format!("{cpu_ms:.1} ms"),
            format!("{:.1}", operations / ms * 1e-6),
            ratio(0, *ms),
            ratio(1, *cpu_ms),
            rounds.to_string(),
            format!("{relative_error:.0e}{}", if *right { "" } else { " WRONG" }),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::super::page;
    use super::*;

    fn run(rows: &[(&str, &str, Outcome)]) -> Results {
        let about = About {
            id: 0,
            date: "2026-11-22".to_owned(),
            command: "cargo xtask compare".to_owned(),
            processor: "a processor".to_owned(),
            device: "a device".to_owned(),
        };
        let mut results = Results::of(about);
        for (shape, contender, outcome) in rows {
            results.rows.push(Row {
                shape: (*shape).to_owned(),
                contender: (*contender).to_owned(),
                about: "1.0".to_owned(),
                run: 0,
                outcome: outcome.clone(),
            });
        }
        results
    }

    fn measured(cpu_ms: f64, own: f64) -> Outcome {
        Outcome::Measured(Measured {
            ms: cpu_ms,
            cpu_ms,
            own: Some([own, own]),
            operations: 1e6,
            rounds: 3,
            relative_error: 1e-7,
            right: true,
        })
    }

    #[test]
    fn runs_replace_the_rows_that_they_measured_and_no_others() {
        let shapes: Vec<String> = super::super::case::all().into_iter().map(|c| c.name).collect();
        let [first, second] = [&*shapes[0], &*shapes[1]];
        let missing = |tried| Outcome::Missing { reason: "no answer".to_owned(), tried };
        let mut kept = Results::default();
        kept.merge(run(&[
            (second, OWN, measured(10.0, 10.0)),
            (second, "burn", measured(40.0, 10.0)),
            (second, "llama.cpp CPU", measured(5.0, 10.0)),
        ]));
        kept.merge(run(&[
            (second, OWN, measured(20.0, 20.0)),
            (second, "burn", missing(false)),
            (second, "llama.cpp CPU", missing(true)),
            (first, OWN, measured(1.0, 1.0)),
        ]));
        let lines: Vec<_> = (kept.rows.iter())
            .map(|row| (&*row.shape, &*row.contender, row.run, row.right_cpu_ratio()))
            .collect();
        assert_eq!(
            lines,
            [
                (first, OWN, 2, Some(1.0)),
                (second, OWN, 2, Some(1.0)),
                (second, "llama.cpp CPU", 2, None),
                (second, "burn", 1, Some(4.0)),
            ]
        );
        assert_eq!(kept.runs.iter().map(|run| run.id).collect::<Vec<_>>(), [1, 2]);
        kept.merge(run(&[(second, "burn", measured(30.0, 10.0))]));
        assert_eq!(kept.runs.iter().map(|run| run.id).collect::<Vec<_>>(), [2, 3]);

        let text = serde_json::to_string(&kept).unwrap();
        let again: Results = serde_json::from_str(&text).unwrap();
        let page = page::markdown(&kept);
        assert_eq!(page::markdown(&again), page);
        assert!(page.contains("| burn | 30.0 ms | 30.0 ms | 0.0 | 3.00 | 3.00 | 3 | 1e-7 | 3 |"));
        assert!(
            page.contains("| llama.cpp CPU | not there: no answer | | | | | | | 2 |"),
            "{page}"
        );
    }
}
