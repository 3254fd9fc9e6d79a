//! The library's own device tests under the sanitizer, in a process of their own.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drivers::workspace::Workspace;

use crate::log_file;
use crate::report::Run;

/// What the tests run on.
pub(crate) struct Device {
    pub(crate) size: u32,
    pub(crate) kind: &'static str,
    pub(crate) matrix: u32,
}

impl Device {
    /// Tests of cooperative matrices expect that the device multiplies them; subgroups with fewer lanes than rows are refused.
    pub(crate) fn can_run(&self, name: &str) -> bool {
        !name.starts_with("matrix::") || self.size >= self.matrix
    }
}

/// Tests that can't pass here, each with its reason.
const SKIPPED: &[(&str, &str)] = &[
    ("races::", "their own kernels read workgroup memory that nothing wrote, on purpose"),
    ("security::an_unchecked_kernel_beyond_its_binding", "its own kernel does what it says"),
    (
        "cache::refusals::tables_and_lengths_from_the_host",
        "its tables give two sequences one block",
    ),
    ("bounds::many_tokens", "it has too many for a machine that looks at every access"),
    ("cache::long_loop::", "it counts bind groups of a plan for a CPU adapter"),
];

fn command(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo("test");
    // As the program itself is built.
    command.args(["--quiet", "--all-features", "--test", "library", "--"]);
    command
}

/// The names of those that can pass here, in order.
pub(crate) fn names(workspace: &Workspace, filter: Option<&str>) -> Result<Vec<String>> {
    let mut command = command(workspace);
    command.args(filter).args(["--list", "--format", "terse"]);
    let output = command.output().context("cargo could not be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tests can't be listed:\n{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let can_pass = |name: &&str| !SKIPPED.iter().any(|(skipped, _)| name.starts_with(skipped));
    Ok(names.filter(can_pass).map(str::to_owned).collect())
}

/// Runs some.
pub(crate) fn run(workspace: &Workspace, device: &Device, names: &[String]) -> Result<Run> {
    let Device { size, kind, matrix } = device;
    let what = format!("{size}, {kind}");
    eprintln!("{} of the library's tests, subgroups of {what}", names.len());
    let log = log_file(workspace, &format!("{size}-{kind}"));
    match fs::remove_file(&log) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut command = command(workspace);
    command.arg("--exact").args(names);
    command
        .env(sanitize::SUBGROUP_SIZE, size.to_string())
        .env(sanitize::DEVICE, kind)
        .env(sanitize::MATRIX, matrix.to_string())
        .env(sanitize::ORDER, if *size < 32 { "backward" } else { "forward" })
        .env(sanitize::LOG, &log)
        .env("RUST_BACKTRACE", "0");
    let output = command.output().context("cargo could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut run = Run { what, ..Run::default() };
    let summary =
        text.lines().find(|line| line.starts_with("test result:")).with_context(|| {
            format!("the tests didn't run:\n{}", String::from_utf8_lossy(&output.stderr))
        })?;
    run.right = number(summary, " passed");
    for failure in text.split("\n---- ").skip(1) {
        let end = failure.find("\n\nfailures:").unwrap_or(failure.len());
        run.faults.push(failure[..end].trim().to_owned());
    }
    let mut texts = BTreeSet::new();
    for line in fs::read_to_string(&log).unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if let [_, text, _, operations, ..] = fields[..] {
            texts.insert(text.to_owned());
            run.dispatches += 1;
            run.operations += operations.parse::<u64>().unwrap_or(0);
        }
    }
    run.texts = texts.len();
    Ok(run)
}

/// The number before some words.
fn number(text: &str, words: &str) -> usize {
    let before = text.split(words).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn summaries_are_read() {
        let text = "test result: FAILED. 89 passed; 14 failed; 0 ignored";
        assert_eq!(super::number(text, " passed"), 89);
        assert_eq!(super::number("", " passed"), 0);
    }
}
