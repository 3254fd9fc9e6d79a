//! The device tests on every driver, and under Vulkan's validation layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Cell, Check, Column, Store, write};
use crate::cargo::{Workspace, artifact, describe, output};
use crate::driver::{self, Choice, Device, Extra, Older};
use crate::progress::Steps;

/// Which tests prove a kernel: those whose names start like this. The first column has the names of `wgpu-attention
/// kernels`.
const PROOFS: [(&str, &[&str]); 21] = [
    ("append", &["cache::"]),
    ("backward bias", &["backward::"]),
    ("backward columns broadcast", &["kernels::backward_broadcast", "backward::"]),
    ("backward columns tiled", &["kernels::backward_tiled", "backward::"]),
    ("backward rows broadcast", &["kernels::backward_broadcast", "backward::"]),
    ("backward rows tiled", &["kernels::backward_tiled", "backward::"]),
    ("backward sinks", &["backward::"]),
    ("backward terms", &["kernels::backward_tiled", "backward::"]),
    ("forward broadcast", &["kernels::forward_broadcast", "forward::", "scores::", "dtypes::"]),
    ("forward decode", &["kernels::forward_decode", "decode::"]),
    ("forward decode_lanes", &["kernels::forward_decode_lanes", "decode::"]),
    ("forward matrix", &["kernels::forward_matrix", "matrix::"]),
    ("forward tiled", &["kernels::forward_tiled", "forward::", "scores::", "dtypes::"]),
    ("inspect", &["inspect::"]),
    ("materialize", &["masks::"]),
    ("merge", &["merge::", "decode::"]),
    ("rows alone", &["masks::"]),
    ("score points", &["backward::scores::"]),
    ("sequences check", &["sequences::"]),
    ("tile classes", &["masks::"]),
    ("tile map", &["masks::"]),
];

/// Fails where a kernel that is compiled is missing in the table of proofs, or none is where the table has one.
pub(super) fn check_proofs<'a>(kernels: impl Iterator<Item = &'a str>) -> Result<()> {
    let compiled: BTreeSet<&str> = kernels.collect();
    let proved: BTreeSet<&str> = PROOFS.iter().map(|(kernel, _)| *kernel).collect();
    let apart: Vec<&&str> = compiled.symmetric_difference(&proved).collect();
    ensure!(apart.is_empty(), "PROOFS of {} and the kernels differ in {apart:?}", file!());
    Ok(())
}

/// What a test prints where a kernel refuses.
const REFUSED: &str = "refused: ";

/// Whether a check runs the device tests.
pub(super) fn is_one(check: Check) -> bool {
    matches!(
        check,
        Check::LavapipeOldest
            | Check::LavapipeOlder
            | Check::Lavapipe
            | Check::Swiftshader
            | Check::Gl
            | Check::Validation
    )
}

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
                ("lavapipe 22.3", driver::extra(workspace, Extra::Older(Older::Bookworm))?)
            }
            Check::LavapipeOlder => {
                let older = Extra::Older(Older::BookwormBackports);
                ("lavapipe 25.0", driver::extra(workspace, older)?)
            }
            Check::Gl => ("llvmpipe, GL", driver::extra(workspace, Extra::Gl)?),
            Check::Swiftshader => ("SwiftShader", driver::select(workspace, Choice::Swiftshader)?),
            Check::Validation => ("validation", driver::select(workspace, Choice::Lavapipe)?),
            _ => ("lavapipe", driver::select(workspace, Choice::Lavapipe)?),
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
            driver::leave_unoptimised(&mut command);
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
        Ok(run.column(title, &self.names(workspace, &device)?))
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

/// What runs of the tests printed: of all of them, or of selections one after the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The driver, and what it was on.
    device: String,
    /// Names, and whether they passed.
    tests: BTreeMap<String, bool>,
    /// Those whose kernels were compiled without optimisation.
    #[serde(default)]
    unoptimised: BTreeSet<String>,
    /// Kernels that refused: the test's name and the reason.
    refusals: BTreeMap<String, String>,
    /// The validation layer, if there was one, and what it objected to.
    layer: Option<String>,
    messages: Vec<String>,
}

impl Run {
    fn parse(text: &str) -> Result<Self> {
        let mut run = Self::default();
        let mut shown = None;
        for line in text.lines() {
            if let Some((name, result)) = outcome(line) {
                if !result.starts_with("ignored") {
                    run.tests.insert(name.to_owned(), result == "ok");
                }
            } else if let Some(name) =
                line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
            {
                shown = Some(name.to_owned());
            } else if let (Some(name), Some(reason)) = (&shown, line.strip_prefix(REFUSED)) {
                run.refusals.insert(name.clone(), reason.to_owned());
            }
        }
        let ended = text.lines().any(|line| line.starts_with("test result: "));
        ensure!(
            ended && !run.tests.is_empty(),
            "the tests broke off after {} of them:\n{}",
            run.tests.len(),
            text.lines().rev().take(5).collect::<Vec<_>>().join("\n")
        );
        Ok(run)
    }

    /// Adds what other tests found before, on the same device.
    fn join(&mut self, before: Self) {
        if before.device != self.device || before.layer != self.layer {
            return;
        }
        let own: Vec<String> = self.tests.keys().cloned().collect();
        for (name, passed) in before.tests {
            self.tests.entry(name).or_insert(passed);
        }
        self.unoptimised.extend(before.unoptimised.into_iter().filter(|name| !own.contains(name)));
        for (name, reason) in before.refusals {
            if !own.contains(&name) {
                self.refusals.insert(name, reason);
            }
        }
        self.messages.extend(before.messages);
        self.messages.sort();
        self.messages.dedup();
    }

    /// The column; `names` are those of all tests that there are now.
    fn column(mut self, title: &str, names: &BTreeSet<String>) -> Column {
        self.tests.retain(|name, _| names.contains(name));
        self.unoptimised.retain(|name| names.contains(name));
        let passed = self.tests.values().filter(|passed| **passed).count();
        let mut summary = format!("{}; {passed} of {} tests", self.device, self.tests.len());
        let missing: Vec<&String> =
            names.iter().filter(|name| !self.tests.contains_key(*name)).collect();
        if !missing.is_empty() {
            summary += &format!(" right, {} not run: {}", missing.len(), by_topic(&missing));
        }
        if !self.unoptimised.is_empty() {
            let count = self.unoptimised.len();
            summary += &format!("; {count} of them by kernels compiled without optimisation");
        }
        if let Some(layer) = &self.layer {
            summary += &format!("; {layer}: {} messages", self.messages.len());
        }
        let failed = self.tests.iter().filter(|(_, passed)| !**passed);
        let failures = failed.map(|(name, _)| format!("test {name} failed"));
        Column {
            title: title.to_owned(),
            summary,
            cells: self.cells(missing.is_empty()),
            failures: failures.chain(self.messages.iter().cloned()).collect(),
            run: Some(self),
        }
    }

    /// What became of the kernels; where some tests weren't run, of those that some test proves.
    fn cells(&self, whole: bool) -> BTreeMap<String, Cell> {
        let cell = |(kernel, starts): &(&str, &[&str])| {
            let cell = match self.cell(starts) {
                None if whole => Cell::Failed("no test ran".to_owned()),
                None => return None,
                Some(cell) => cell,
            };
            Some(((*kernel).to_owned(), cell))
        };
        PROOFS.iter().filter_map(cell).collect()
    }

    fn cell(&self, starts: &[&str]) -> Option<Cell> {
        if let Some(reason) = starts.iter().find_map(|name| self.refusals.get(*name)) {
            return Some(Cell::Refused(reason.clone()));
        }
        let proves = |name: &str| {
            let of =
                |start: &str| name == start || start.ends_with("::") && name.starts_with(start);
            starts.iter().any(|start| of(start))
        };
        let proofs: Vec<_> = self.tests.iter().filter(|(name, _)| proves(name)).collect();
        match proofs.iter().find(|(_, passed)| !**passed) {
            Some((name, _)) => Some(Cell::Failed(format!("test {name}"))),
            None if proofs.is_empty() => None,
            None => Some(Cell::Right(proofs.len())),
        }
    }
}

/// The name of a test, which is in some module, and what came of it. Its line may begin behind half a line of a layer's,
/// which shares the output.
fn outcome(line: &str) -> Option<(&str, &str)> {
    let (before, result) = line.split_once(" ... ")?;
    let (_, name) = before.rsplit_once("test ")?;
    let ended = ["ok", "FAILED", "ignored"].iter().any(|word| result.starts_with(word));
    (ended && name.contains("::") && !name.contains(' ')).then_some((name, result))
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

/// Vulkan's validation layer, which writes what it finds into a file.
struct Layer {
    folder: PathBuf,
    package: String,
    settings: PathBuf,
    log: PathBuf,
}

impl Layer {
    fn set_up(workspace: &Workspace, store: &Store) -> Result<Self> {
        let (folder, package) = driver::validation_layer(workspace)?;
        let settings = store.root.join("validation/vk_layer_settings.txt");
        let log = store.log("validation-layer.log");
        // It says at `info` that it is there, and what it checks.
        write(
            &settings,
            &format!(
                "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n\
                 khronos_validation.log_filename = {}\n\
                 khronos_validation.report_flags = error,warn,info\n\
                 khronos_validation.validate_sync = true\n\
                 khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT\n",
                log.display()
            ),
        )?;
        write(&log, "")?;
        Ok(Self { folder, package, settings, log })
    }

    fn apply(&self, command: &mut Command) {
        command
            .env("VK_LAYER_PATH", &self.folder)
            .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
            .env("VK_LAYER_SETTINGS_PATH", &self.settings)
            .env("WGPU_VALIDATION", "1");
    }

    /// What it objected to, each once. It is an error if it doesn't say that it was there and checked synchronisation.
    fn messages(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.log)
            .with_context(|| format!("reading {}", self.log.display()))?;
        messages(&text).with_context(|| {
            format!("the layer wasn't there: see {}", Path::new(&self.log).display())
        })
    }
}

fn messages(log: &str) -> Result<Vec<String>> {
    ensure!(log.contains("Khronos Validation Layer Active"), "it doesn't say that it is active");
    ensure!(
        log.contains("SYNCHRONIZATION_VALIDATION") || log.contains("validate_sync"),
        "it doesn't say that it checks synchronisation"
    );
    let mut found: Vec<String> = log
        .lines()
        .filter(|line| {
            ["Validation Error:", "Validation Warning:", "Validation Performance Warning:"]
                .iter()
                .any(|start| line.contains(start))
        })
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
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
        let column = run.column("a driver", &names);
        let reason = "the device was opened without cooperative matrices";
        assert_eq!(column.cells["forward tiled"], Cell::Right(2));
        assert_eq!(column.cells["forward matrix"], Cell::Refused(reason.into()));
        assert_eq!(column.cells["merge"], Cell::Failed("test merge::a_shared_prefix".into()));
        assert_eq!(column.cells["append"], Cell::Failed("no test ran".into()));
        assert_eq!(column.failures, ["test merge::a_shared_prefix failed"]);
        assert!(column.summary.ends_with("; 3 of 4 tests"), "{}", column.summary);
    }

    #[test]
    fn half_a_line_of_a_layer_hides_no_test() {
        assert_eq!(
            outcome("validation-latest matrix::sizes ... ok"),
            Some(("matrix::sizes", "ok"))
        );
        assert_eq!(outcome("test a::b has been running for over 60 seconds"), None);
        assert_eq!(outcome("what this test prints ... ok"), None);
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
        let column = second.clone().column("a driver", &names);
        assert_eq!(column.cells["append"], Cell::Right(1));
        assert_eq!(column.cells["merge"], Cell::Right(1));
        assert!(matches!(column.cells["forward matrix"], Cell::Refused(_)));
        assert!(!column.cells.contains_key("inspect"), "no test of it ran");
        let end = "5 of 5 tests right, 1 not run: `onnx` (1); 1 of them by kernels compiled without optimisation";
        assert!(column.summary.ends_with(end), "{}", column.summary);
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

    #[test]
    fn a_layer_that_is_silent_is_not_there() {
        assert!(messages("").is_err());
        let there = "Validation Information: Khronos Validation Layer Active: Current Enables: \
                     VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT.\n";
        assert_eq!(messages(there).unwrap(), [""; 0]);
        let found = format!("{there}Validation Error: [ X ] a\nValidation Error: [ X ] a\n");
        assert_eq!(messages(&found).unwrap(), ["Validation Error: [ X ] a"]);
    }
}
