//! The figures, as docs/RELIABILITY.md has them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sanitize::mutants::{Fate, Kind, Mutant};

/// What was run at a size.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) what: String,
    pub(crate) right: usize,
    pub(crate) refused: usize,
    pub(crate) dispatches: u64,
    pub(crate) texts: usize,
    /// Per lane.
    pub(crate) operations: u64,
    pub(crate) faults: Vec<String>,
}

/// What became of a kernel's mutants.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    pub(crate) kernel: String,
    /// Found by a finding, by a wrong result, not found.
    barriers: [usize; 3],
    bounds: [usize; 3],
    missed: Vec<String>,
    /// In functions that the kernel doesn't call, or branches that its problem doesn't take.
    unreached: usize,
}

impl Broken {
    pub(crate) fn new(kernel: &str, unreached: usize) -> Self {
        Self { kernel: kernel.to_owned(), unreached, ..Self::default() }
    }

    /// What wasn't found, in words.
    pub(crate) fn missed(&self) -> &[String] {
        &self.missed
    }

    /// Its row of the table.
    pub(crate) fn line(&self) -> String {
        let all = |counts: [usize; 3]| counts.iter().sum::<usize>();
        format!(
            "| {} | {} of {} | {} of {} | {} | {} | {} |",
            self.kernel,
            self.barriers[0],
            all(self.barriers),
            self.bounds[0],
            all(self.bounds),
            self.barriers[1] + self.bounds[1],
            self.missed.len(),
            self.unreached,
        )
    }

    pub(crate) fn add(&mut self, mutant: &Mutant, fate: &Fate) {
        let counts = match mutant.kind {
            Kind::Barrier => &mut self.barriers,
            Kind::Bound => &mut self.bounds,
        };
        match fate {
            Fate::Found(_) => counts[0] += 1,
            Fate::Off(_) => counts[1] += 1,
            Fate::Missed => {
                counts[2] += 1;
                self.missed
                    .push(format!("{:?}, line {}: `{}`", mutant.kind, mutant.line, mutant.was));
            }
            Fate::Invalid => {}
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) kernels: Vec<Run>,
    pub(crate) library: Vec<Run>,
    pub(crate) mutants: Vec<Broken>,
}

impl Figures {
    /// What was found, in words.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &String> {
        self.kernels.iter().chain(&self.library).flat_map(|run| &run.faults)
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        table(
            &mut text,
            "a problem for each kernel, subgroups of",
            "right, refused",
            &self.kernels,
        );
        if !self.library.is_empty() {
            table(&mut text, "the device tests, subgroups of", "passed", &self.library);
        }
        if !self.mutants.is_empty() {
            text += "| broken kernel | barriers found of those taken out | bounds found of those loosened | \
                     by wrong results alone | not found | not executed |\n|---|---|---|---|---|---|\n";
            for broken in &self.mutants {
                let _ = writeln!(text, "{}", broken.line());
            }
            text.push('\n');
            for broken in self.mutants.iter().filter(|broken| !broken.missed.is_empty()) {
                let _ = writeln!(text, "Not found in {}:\n", broken.kernel);
                for missed in &broken.missed {
                    let _ = writeln!(text, "- {missed}");
                }
                text.push('\n');
            }
        }
        text
    }
}

fn table(text: &mut String, of: &str, right: &str, runs: &[Run]) {
    let _ = writeln!(
        text,
        "| {of} | {right} | kernels' texts | dispatches | lane operations | findings |\n|---|---|---|---|---|---|"
    );
    for run in runs {
        let refused = if run.refused > 0 { format!(", {}", run.refused) } else { String::new() };
        let _ = writeln!(
            text,
            "| {} | {}{refused} | {} | {} | {:.1e} | {} |",
            run.what,
            run.right,
            run.texts,
            run.dispatches,
            run.operations as f64,
            run.faults.len()
        );
    }
    text.push('\n');
}

const START: &str = "<!-- cargo xtask sanitize -->\n";
const END: &str = "<!-- end -->\n";

/// Puts the figures in their place in a file.
pub(crate) fn write(path: &Path, figures: &Figures) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) = text.split_once(START).context("the file has no place for the figures")?;
    let (_, after) = rest.split_once(END).context("the place for the figures has no end")?;
    let text = format!("{before}{START}\n{}{END}{after}", figures.markdown());
    fs::write(path, text).with_context(|| path.display().to_string())
}
