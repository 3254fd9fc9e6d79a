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
    kernel: String,
    barriers: Counts,
    bounds: Counts,
    /// Barriers that were missed, each with the reason where there is one.
    missed: Vec<(Mutant, Option<&'static str>)>,
    /// Barriers that were found, though there is a reason why they can't be.
    stale: Vec<Mutant>,
    /// In functions that the kernel doesn't call, or branches that its problems don't take.
    unreached: usize,
}

/// Found by a finding, by a wrong result, not found.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    found: usize,
    off: usize,
    missed: usize,
}

impl Counts {
    fn all(self) -> usize {
        self.found + self.off + self.missed
    }
}

impl Broken {
    pub(crate) fn new(kernel: &str, unreached: usize) -> Self {
        Self { kernel: kernel.to_owned(), unreached, ..Self::default() }
    }

    /// Its row of the table.
    pub(crate) fn line(&self) -> String {
        let Self { kernel, barriers, bounds, unreached, .. } = self;
        format!(
            "| {kernel} | {} of {} | {} of {} | {} | {} | {unreached} |",
            barriers.found,
            barriers.all(),
            bounds.found,
            bounds.all(),
            barriers.off + bounds.off,
            barriers.missed + bounds.missed,
        )
    }

    pub(crate) fn add(&mut self, mutant: &Mutant, fate: &Fate) {
        let counts = match mutant.kind {
            Kind::Barrier => &mut self.barriers,
            Kind::Bound => &mut self.bounds,
        };
        let reason = mutant.reason(&self.kernel);
        match fate {
            Fate::Found(_) => counts.found += 1,
            Fate::Off(_) => counts.off += 1,
            Fate::Missed => counts.missed += 1,
        }
        if mutant.kind == Kind::Barrier {
            match (fate, reason) {
                (Fate::Missed, _) => self.missed.push((mutant.clone(), reason)),
                (_, Some(_)) => self.stale.push(mutant.clone()),
                (_, None) => {}
            }
        }
    }

    /// What it says against the kernel or the sanitizer.
    fn faults(&self) -> impl Iterator<Item = String> {
        let unexplained = self.missed.iter().filter(|(_, reason)| reason.is_none());
        let unexplained = unexplained.map(|(mutant, _)| {
            format!("{}: without {mutant} nothing is found, and there is no reason", self.kernel)
        });
        let stale = self.stale.iter().map(|mutant| {
            format!("{}: {mutant} has a reason not to be found, and is found", self.kernel)
        });
        unexplained.chain(stale)
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
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        let runs = self.kernels.iter().chain(&self.library).flat_map(|run| run.faults.clone());
        runs.chain(self.mutants.iter().flat_map(Broken::faults))
    }

    /// What was run, each part by its name, as tables.
    pub(crate) fn parts(&self) -> Vec<(&'static str, String)> {
        let kernels =
            table("every kernel's problems, subgroups of", "right, refused", &self.kernels);
        let library = table("device tests, subgroups of", "passed", &self.library);
        let mutants = self.mutants_table();
        let parts = [("kernels", kernels), ("device tests", library), ("broken kernels", mutants)];
        parts.into_iter().filter(|(_, text)| !text.is_empty()).collect()
    }

    fn mutants_table(&self) -> String {
        if self.mutants.is_empty() {
            return String::new();
        }
        let mut text = "| broken kernel | barriers found of those taken out | bounds found of those loosened | \
                        by wrong results alone | not found | not executed |\n|---|---|---|---|---|---|\n"
            .to_owned();
        for broken in &self.mutants {
            let _ = writeln!(text, "{}", broken.line());
        }
        let missed = self.mutants.iter().flat_map(|broken| {
            broken.missed.iter().map(move |(mutant, reason)| (&broken.kernel, mutant, reason))
        });
        let missed = missed.map(|(kernel, mutant, reason)| {
            format!("- {kernel}, {mutant}: {}.\n", reason.unwrap_or("no reason is known"))
        });
        let missed: String = missed.collect();
        if !missed.is_empty() {
            text += &format!("\nBarriers that aren't found, and why:\n\n{missed}");
        }
        text
    }
}

fn table(of: &str, right: &str, runs: &[Run]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "| {of} | {right} | kernels' texts | dispatches | lane operations | findings |\n|---|---|---|---|---|---|\n"
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
    text
}

const END: &str = "<!-- end -->";

/// Puts what was run in its places in a file; other parts stay as they are.
pub(crate) fn write(path: &Path, figures: &Figures) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = figures
        .parts()
        .iter()
        .try_fold(text, |text, (part, table)| replaced(&text, part, table))?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn replaced(text: &str, part: &str, table: &str) -> Result<String> {
    let start = format!("<!-- cargo xtask sanitize: {part} -->");
    let places = text.split_once(&start).and_then(|(before, rest)| {
        let (_, behind) = rest.split_once(END)?;
        Some((before, behind))
    });
    let (before, behind) = places.with_context(|| format!("the file has no place for {part}"))?;
    Ok(format!("{before}{start}\n\n{table}\n{END}{behind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_and_nothing_else() {
        let place = |of: &str, table: &str| {
            format!("<!-- cargo xtask sanitize: {of} -->\n\n{table}\n<!-- end -->")
        };
        let text = |a: &str, b: &str| format!("x\n{}\ny\n{}\nz\n", place("a", a), place("b", b));
        assert_eq!(
            replaced(&text("old\n", "kept\n"), "a", "new\n").unwrap(),
            text("new\n", "kept\n")
        );
        assert!(replaced(&text("", ""), "c", "").is_err());
    }

    #[test]
    fn the_document_has_a_place_for_each_part() {
        let text = include_str!("../../../docs/RELIABILITY.md");
        for part in ["kernels", "device tests", "broken kernels"] {
            assert!(replaced(text, part, "").is_ok(), "{part}");
        }
    }
}
