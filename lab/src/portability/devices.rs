//! The device tests on every driver, and under Vulkan's validation layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use drivers::progress::Steps;
use drivers::workspace::{Workspace, artifact, describe, output};
use drivers::{Choice, Device, Extra, Older};

use super::column::{Check, Column};
use super::layer::Layer;
use super::proofs;
use super::run::Run;
use super::store::{Store, write};

/// The program of the device tests.
#[derive(Debug)]
pub(super) struct Tests {
    program: PathBuf,
    /// Only those with one of these in their names, unless it's empty.
    filters: Vec<String>,
    unoptimised: bool,
}

impl Tests {
    pub(super) fn build(
        workspace: &Workspace,
        filters: &[String],
        unoptimised: bool,
    ) -> Result<Self> {
        eprintln!("build of the device tests …");
        let mut build = workspace.cargo("test");
        // As `cargo xtask test` does, so that nothing is built twice.
        build.args(["--workspace", "--all-features", "--no-run", "--test", "device"]);
        let program = artifact(&mut build, "device", std::env::consts::EXE_EXTENSION)?;
        Ok(Self { program, filters: filters.to_vec(), unoptimised })
    }

    pub(super) fn run(&self, workspace: &Workspace, store: &Store, check: Check) -> Result<Column> {
        let (title, device) = match check {
            Check::LavapipeOldest => {
                ("lavapipe 22.3", drivers::extra(workspace, Extra::Older(Older::Bookworm))?)
            }
            Check::LavapipeOlder => {
                let older = Extra::Older(Older::BookwormBackports);
                ("lavapipe 25.0", drivers::extra(workspace, older)?)
            }
            Check::Gl => ("llvmpipe, GL", drivers::extra(workspace, Extra::Gl)?),
            Check::Swiftshader => ("SwiftShader", drivers::select(workspace, Choice::Swiftshader)?),
            Check::Validation => ("validation", drivers::select(workspace, Choice::Lavapipe)?),
            _ => ("lavapipe", drivers::select(workspace, Choice::Lavapipe)?),
        };
        let layer = match check {
            Check::Validation => Some(Layer::set_up(workspace, store)?),
            _ => None,
        };
        let mut command = self.start(workspace, &device);
        command.arg("--show-output").args(&self.filters);
        if check == Check::Gl {
            // wgpu's GL backend has one context for all threads, and panics where one of them holds it for seconds, as
            // llvmpipe does while it computes (`Could not lock adapter context`, wgpu-hal 30).
            command.arg("--test-threads=1");
        }
        let unoptimised = check != Check::Swiftshader && (self.unoptimised || layer.is_some());
        if unoptimised {
            drivers::leave_unoptimised(&mut command);
        }
        if let Some(layer) = &layer {
            layer.apply(&mut command);
        }
        let log = store.log(&format!("{}.log", check.name()));
        let text = follow(&mut command, &format!("device tests on {device}"), &log)?;
        let mut run = Run::parse(&text)?;
        run.device = device.to_string();
        if unoptimised {
            run.unoptimised = run.tests.keys().cloned().collect();
        }
        if let Some(layer) = &layer {
            run.layer = Some(layer.package.clone());
            run.messages = layer.messages()?;
        }
        if !self.filters.is_empty()
            && let Some(before) = store.find(check)?.and_then(|column| column.run)
        {
            run.join(before);
        }
        Ok(column(run, title, &self.names(workspace, &device)?))
    }

    /// The names of all tests but those that are ignored.
    fn names(&self, workspace: &Workspace, device: &Device) -> Result<BTreeSet<String>> {
        let list = |ignored: bool| {
            let mut command = self.start(workspace, device);
            command.args(["--list", "--format", "terse"]).args(ignored.then_some("--ignored"));
            let text = output(&mut command)?;
            let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
            Ok::<BTreeSet<String>, anyhow::Error>(names.map(str::to_owned).collect())
        };
        Ok(&list(false)? - &list(true)?)
    }

    fn start(&self, workspace: &Workspace, device: &Device) -> Command {
        let mut command = match device.runner() {
            Some(runner) => Command::new(runner),
            None => Command::new(&self.program),
        };
        command.args(device.runner().is_some().then_some(&self.program));
        device.apply(&mut command);
        // As cargo starts tests.
        command.current_dir(workspace.root()).env("CARGO_MANIFEST_DIR", workspace.root());
        command
    }
}

/// Runs tests, with a bar that counts them, and gives what they printed. It is in `log` as soon as it is printed: some
/// drivers take an hour.
fn follow(command: &mut Command, label: &str, log: &Path) -> Result<String> {
    write(log, "")?;
    let file = File::options().append(true).open(log)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` could not be started", describe(command)))?;
    let output = child.stdout.take().context("a child without its output")?;
    let output = Tee { input: output, copy: file };
    let text = Steps::new(label).follow(output, tests_in, |line| line.starts_with("test "))?;
    // Whether tests failed is in the text, whose end a crash leaves out.
    let status = child.wait()?;
    Ok(match status.code() {
        Some(_) => text,
        None => text + &format!("the tests ended by {status}\n"),
    })
}

/// What is read, and a copy of it.
struct Tee<R> {
    input: R,
    copy: File,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// The number in `running 75 tests`.
fn tests_in(line: &str) -> Option<u64> {
    line.strip_prefix("running ")?.split(' ').next()?.parse().ok()
}

/// The column; `names` are those of all tests that there are now.
fn column(mut run: Run, title: &str, names: &BTreeSet<String>) -> Column {
    run.tests.retain(|name, _| names.contains(name));
    run.unoptimised.retain(|name| names.contains(name));
    let passed = run.tests.values().filter(|passed| **passed).count();
    let mut summary = format!("{}; {passed} of {} tests", run.device, run.tests.len());
    let missing: Vec<&String> =
        names.iter().filter(|name| !run.tests.contains_key(*name)).collect();
    if !missing.is_empty() {
        summary += &format!(" right, {} not run: {}", missing.len(), by_topic(&missing));
    }
    if !run.unoptimised.is_empty() {
        let count = run.unoptimised.len();
        summary += &format!("; {count} of them by kernels compiled without optimisation");
    }
    if let Some(layer) = &run.layer {
        summary += &format!("; {layer}: {} messages", run.messages.len());
    }
    let failed = run.tests.iter().filter(|(_, passed)| !**passed);
    let failures = failed.map(|(name, _)| format!("test {name} failed"));
    Column {
        title: title.to_owned(),
        summary,
        cells: proofs::cells(&run, missing.is_empty()),
        failures: failures.chain(run.messages.iter().cloned()).collect(),
        run: Some(run),
    }
}

/// Tests by the module that they are in: `cache (3), onnx (1)`.
fn by_topic(names: &[&String]) -> String {
    let mut topics: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        *topics.entry(name.split("::").next().unwrap_or_default()).or_default() += 1;
    }
    let topics: Vec<String> =
        topics.iter().map(|(topic, count)| format!("`{topic}` ({count})")).collect();
    topics.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::column::Cell;
    use super::*;

    const OUTPUT: &str = "\
running 4 tests
test kernels::forward_tiled ... ok
test forward::scales ... ok
test kernels::forward_matrix ... ok
test merge::a_shared_prefix ... FAILED

successes:

---- kernels::forward_matrix stdout ----
refused: the device was opened without cooperative matrices

failures:

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn tests_become_cells() {
        let run = Run::parse(OUTPUT).unwrap();
        let names: BTreeSet<String> = run.tests.keys().cloned().collect();
        let found = column(run, "a driver", &names);
        let reason = "the device was opened without cooperative matrices";
        assert_eq!(found.cells["forward tiled"], Cell::Right(2));
        assert_eq!(found.cells["forward matrix"], Cell::Refused(reason.into()));
        assert_eq!(found.cells["merge"], Cell::Failed("test merge::a_shared_prefix".into()));
        assert_eq!(found.cells["append"], Cell::Failed("no test ran".into()));
        assert_eq!(found.failures, ["test merge::a_shared_prefix failed"]);
        assert!(found.summary.ends_with("; 3 of 4 tests"), "{}", found.summary);
    }

    #[test]
    fn selections_add_up() {
        let first = Run::parse(OUTPUT).unwrap();
        let mut names: BTreeSet<String> = first.tests.keys().cloned().collect();
        names.extend(["cache::rows".to_owned(), "onnx::all".to_owned()]);
        let text = "test cache::rows ... ok\ntest merge::a_shared_prefix ... ok\n\
                    ---- kernels::forward_tiled stdout ----\ntest result: ok.\n";
        let mut second = Run::parse(text).unwrap();
        second.unoptimised = ["cache::rows".to_owned()].into();
        second.join(first.clone());
        let found = column(second.clone(), "a driver", &names);
        assert_eq!(found.cells["append"], Cell::Right(1));
        assert_eq!(found.cells["merge"], Cell::Right(1));
        assert!(matches!(found.cells["forward matrix"], Cell::Refused(_)));
        assert!(!found.cells.contains_key("inspect"), "no test of it ran");
        let end = "5 of 5 tests right, 1 not run: `onnx` (1); 1 of them by kernels compiled without optimisation";
        assert!(found.summary.ends_with(end), "{}", found.summary);
        // Another driver's results are no part of it.
        let mut other = Run { device: "another".into(), ..Run::parse(text).unwrap() };
        other.join(first);
        assert_eq!(other.tests.len(), 2);
    }

    #[test]
    fn a_crash_is_no_success() {
        let cut = OUTPUT.split("test result").next().unwrap();
        assert!(Run::parse(cut).is_err());
        assert!(Run::parse("running 0 tests\n\ntest result: ok. 0 passed").is_err());
    }
}
