//! What each task of `cargo xtask` does, as calls of cargo on a device.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use drivers::workspace::{Workspace, own_program, run_to_end};
use drivers::{Choice, Device, Second};

use crate::lab;
use crate::report::Report;

/// The integration test that needs a device, run once per driver.
const DEVICE: &str = "device";
const DEVICE_TESTS: &[&str] = &["--test", DEVICE];

/// The models of crates/models; what takes long of them is ignored unless it is asked for.
const MODEL_TESTS: &[&str] = &["--test", "models"];

/// Modules that take half of its time, which is that of compiling kernels. Mesa's driver for CPUs compiles one at a time in each
/// process, so two processes take half as long.
const HALF: &[&str] = &["backward::", "decode::"];

/// Makes the device tests leave out most cases of kernels for CPU adapters: see `of_this_run` there.
const BRIEF_VARIABLE: &str = "WGPU_ATTENTION_BRIEF_TESTS";

/// By what the test over MPI, which cargo doesn't know, is found.
const RING_TEST: &str = "ring_mpi";

/// The device tests that run again with kernels compiled as programs compile them, unless all of them do: of every kernel by
/// itself.
const OPTIMISED: &[&str] = &["kernels::", "backward::nothing_to_compute"];

/// Those that run on the second driver, unless all of them do: the same, and of what differs there, which are subgroups of
/// another size, fewer storage buffers, larger alignments, smaller limits.
const ON_SECOND: &[&str] = &[
    "kernels::forward_",
    "kernels::backward_",
    "backward::tensors",
    "cache::",
    "custom::",
    "dtypes::",
    "edges::",
    "hostile::",
    "host::",
    // Devices that promise less than the driver has are all one to it, and it compiles everything for each of them anew.
    "limits::beyond_128_mib",
    "masks::",
    "merge::",
    "races::",
    "sequences::",
];

/// Where the first driver is lavapipe, a brief run leaves these to SwiftShader, so that both take about as long: most of it is that of
/// compiling kernels. Each kernel by itself, decoding, matrices and limits stay on lavapipe.
const ON_SWIFTSHADER: &[&str] = &[
    "backward::",
    "cache::",
    "custom::",
    "dtypes::",
    "edges::",
    "hostile::",
    "races::",
    "random::",
    "scores::",
    "security::append::",
    "sequences::",
];

/// Of these, what SwiftShader has no matrices for.
const NEEDS_MATRICES: &[&str] = &["backward::matrix::", "by_matrices"];

/// What CI runs of `lab`. All calls that may find no memory would take 100 seconds of CPU time, each third takes 40.
const IN_CI: [(&str, &[&str]); 5] = [
    ("all kernels in the languages of wgpu's backends", &["portability", "--quick"]),
    ("kernels for GPUs that aren't there keep to registers", &["isa", "--check"]),
    ("the page's numbers in a browser", &["web", "--test", "numbers of"]),
    ("a driver that fails at every call", &["faults", "--stride", "3"]),
    (
        "3 seconds of each fuzzing target",
        &["fuzz", "--seconds", "3", "--jobs", "2", "--without-naga"],
    ),
];

/// Which tests to run.
#[derive(Debug, Default)]
pub(crate) struct Tests {
    /// Only those with this in their names.
    pub(crate) filter: Option<String>,
    /// Leave out the pass on the second driver.
    pub(crate) one_device: bool,
    /// All of them on both drivers, with kernels compiled as programs compile them; so it is with a filter, too.
    pub(crate) thorough: bool,
    /// Arguments for the test harness.
    pub(crate) args: Vec<OsString>,
}

// Programs are named without their package: cargo then looks for them among the workspace's default members, with the
// same features as in the tests.

/// `cargo xtask example NAME`, and `demo`.
pub(crate) fn example(
    workspace: &Workspace,
    choice: Choice,
    name: &str,
    args: &[OsString],
) -> Result<ExitCode> {
    let mut cargo = workspace.cargo("run");
    cargo.args(["--all-features", "--example", name, "--"]).args(args);
    on_device(workspace, choice, cargo)
}

/// `cargo xtask gallery`.
pub(crate) fn gallery(workspace: &Workspace, choice: Choice) -> Result<ExitCode> {
    example(workspace, choice, "gallery", &[workspace.root().join("docs").into_os_string()])
}

/// `cargo xtask learn`.
pub(crate) fn learn(workspace: &Workspace, choice: Choice) -> Result<ExitCode> {
    let root = workspace.root();
    let path = |parts: [&str; 2]| root.join(parts[0]).join(parts[1]).into_os_string();
    let args = [
        "--out".into(),
        path(["out", "train_gpt"]),
        "--figures".into(),
        path(["docs", "training"]),
        "--keep".into(),
        path(["data", "gpt.safetensors"]),
    ];
    example(workspace, choice, "train_gpt", &args)
}

/// `cargo xtask cli`.
pub(crate) fn cli(workspace: &Workspace, choice: Choice, args: &[OsString]) -> Result<ExitCode> {
    let mut cargo = workspace.cargo("run");
    cargo.args(["--quiet", "--all-features", "--bin", "wgpu-attention", "--"]).args(args);
    on_device(workspace, choice, cargo)
}

/// `cargo xtask soak`.
pub(crate) fn soak(
    workspace: &Workspace,
    choice: Choice,
    calls: u64,
    seed: Option<u64>,
) -> Result<ExitCode> {
    let tests = Tests {
        // Of calls that share kernels, and of random problems.
        filter: Some("soak".into()),
        args: ["--ignored", "--nocapture", "--test-threads", "1"].map(Into::into).into(),
        ..Tests::default()
    };
    let mut cargo = test_command(workspace, DEVICE_TESTS, &tests);
    cargo.env("WGPU_ATTENTION_SOAK_CALLS", calls.to_string());
    if let Some(seed) = seed {
        cargo.env("WGPU_ATTENTION_SOAK_SEED", seed.to_string());
    }
    on_device(workspace, choice, cargo)
}

/// `cargo xtask bench`.
pub(crate) fn bench(workspace: &Workspace, choice: Choice, args: &[OsString]) -> Result<ExitCode> {
    let mut cargo = workspace.cargo("bench");
    cargo.args(["--package", "wgpu-attention-tools", "--"]).args(args);
    on_device(workspace, choice, cargo)
}

/// `cargo xtask driver`.
pub(crate) fn driver(workspace: &Workspace, choice: Choice, refresh: bool) -> Result<ExitCode> {
    if refresh {
        drivers::forget(workspace)?;
    }
    print!("{}", drivers::select(workspace, choice)?.to_shell());
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask test`.
pub(crate) fn test(workspace: &Workspace, choice: Choice, tests: &Tests) -> Result<ExitCode> {
    let mut report = Report::default();
    test_passes(workspace, choice, tests, Vec::new(), &mut report)?;
    Ok(report.finish())
}

/// `cargo xtask ci`.
pub(crate) fn ci(workspace: &Workspace, choice: Choice) -> Result<ExitCode> {
    let mut report = Report::default();

    let mut format = workspace.cargo("fmt");
    format.args(["--all", "--check"]);
    let mut lints = workspace.cargo("clippy");
    lints.args(["--workspace", "--all-targets", "--all-features", "--", "-Dwarnings"]);
    let mut docs = workspace.cargo("doc");
    docs.args(["--workspace", "--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "-Dwarnings");

    for (name, command) in [("formatting", &mut format), ("lints", &mut lints), ("docs", &mut docs)]
    {
        if !report.run(name, command)? {
            return Ok(report.finish());
        }
    }
    let others = IN_CI.map(|(name, arguments)| {
        let mut command = lab::command(workspace, choice);
        command.args(arguments);
        (name.to_owned(), command)
    });
    test_passes(workspace, choice, &Tests::default(), others.into(), &mut report)?;
    Ok(report.finish())
}

/// Builds the tests once, then runs them on the drivers, and `others` behind them. What fails doesn't keep the next from
/// running: what fails on one driver alone is the first thing one wants to know.
fn test_passes(
    workspace: &Workspace,
    choice: Choice,
    tests: &Tests,
    others: Vec<(String, Command)>,
    report: &mut Report,
) -> Result<()> {
    // Drivers first: whoever lacks one should hear it before a long build.
    let device = drivers::select(workspace, choice)?;
    let second =
        if tests.one_device { Second::Unwanted } else { drivers::second(workspace, choice)? };

    let mut build = workspace.cargo("test");
    build.args(["--workspace", "--all-features", "--no-run"]);
    device.apply(&mut build);
    if !report.run("build of the tests", &mut build)? {
        return Ok(());
    }

    let named = match &tests.filter {
        Some(filter) => format!(" named *{filter}*"),
        None => String::new(),
    };
    let brief = !tests.thorough && tests.filter.is_none();
    let pass = |what: &str, device: &Device, targets: &[&str], only: &[&str]| {
        let mut command = test_command(workspace, targets, tests);
        command.args(only);
        device.apply(&mut command);
        (format!("{what}{named} on {device}"), command)
    };
    let skip = |modules: &[&'static str]| -> Vec<&str> {
        modules.iter().flat_map(|module| ["--skip", module]).collect()
    };
    let is_shared = brief && device.is_lavapipe() && matches!(second, Second::Device(_));
    // What takes longest comes first.
    let mut steps = Vec::new();
    if tests.filter.is_some() {
        steps.push(pass("all tests", &device, &[], &[]));
    } else {
        let but_device: Vec<&str> = ["--lib", "--bins"]
            .into_iter()
            .chain(
                workspace
                    .tests()
                    .iter()
                    .filter(|name| *name != DEVICE)
                    .flat_map(|name| ["--test", name.as_str()]),
            )
            .collect();
        if is_shared {
            let skipped = skip(ON_SWIFTSHADER);
            steps.push(pass("part of the device tests", &device, DEVICE_TESTS, &skipped));
            steps.push(pass(
                "more device tests with matrices",
                &device,
                DEVICE_TESTS,
                NEEDS_MATRICES,
            ));
        } else {
            steps.push(pass("device tests, one half,", &device, DEVICE_TESTS, &skip(HALF)));
            steps.push(pass("device tests, the other half,", &device, DEVICE_TESTS, HALF));
        }
        steps.push(pass("all other tests", &device, &but_device, &[]));
        steps.push(pass("tests of the documentation", &device, &["--doc"], &[]));
    }
    if tests.thorough && tests.filter.is_none() {
        steps.push(pass("the models, whole,", &device, MODEL_TESTS, &["--ignored"]));
    }
    if brief {
        for (_, command) in &mut steps {
            drivers::leave_unoptimised(command);
            command.env(BRIEF_VARIABLE, "1");
        }
        if !is_shared {
            steps.push(pass("each kernel, optimised,", &device, DEVICE_TESTS, OPTIMISED));
        }
    }
    match second {
        Second::Device(device) => {
            let (what, only) = match (brief, is_shared) {
                (true, true) => ("part of the device tests", [ON_SWIFTSHADER, ON_SECOND].concat()),
                (true, false) => ("part of the device tests", ON_SECOND.to_vec()),
                (false, _) => ("device tests", Vec::new()),
            };
            let (name, mut command) = pass(what, &device, DEVICE_TESTS, &only);
            if brief {
                command.env(BRIEF_VARIABLE, "1");
            }
            steps.insert(steps.len().min(1), (name, command));
        }
        Second::Unavailable(reason) => {
            report.skip(format!("device tests{named} on SwiftShader"), reason);
        }
        Second::Unwanted => {}
    }
    // It builds wgpu once more, for a workspace of its own; the example's own test runs the same ring over threads.
    let rings = match &tests.filter {
        Some(filter) => RING_TEST.contains(filter.as_str()),
        None => tests.thorough,
    };
    if rings {
        let mut ring = Command::new(own_program()?);
        ring.args(["ring", "--driver"]).arg(choice.to_string());
        steps.push(("ring attention, two ranks over MPI".to_owned(), ring));
    }
    steps.extend(others);
    report.run_two_at_a_time(steps)
}

/// A run of the tests of these targets, or of all.
fn test_command(workspace: &Workspace, targets: &[&str], tests: &Tests) -> Command {
    let mut cargo = workspace.cargo("test");
    // Always the whole workspace: another selection of packages may select other features of shared dependencies,
    // and then cargo builds them once more.
    cargo.args(["--workspace", "--all-features", "--no-fail-fast"]).args(targets);
    cargo.args(&tests.filter).arg("--").args(&tests.args);
    cargo
}

/// Settles on the device, says which, and runs the command there; the exit code is the command's own.
fn on_device(workspace: &Workspace, choice: Choice, mut command: Command) -> Result<ExitCode> {
    let device = drivers::select(workspace, choice)?;
    eprintln!("running on {device}");
    device.apply(&mut command);
    run_to_end(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_the_library_is_small() {
        let workspace = Workspace::locate().unwrap();
        let mut cargo = workspace.cargo("package");
        cargo.args(["--package", "wgpu-attention", "--no-verify", "--offline", "--allow-dirty"]);
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let name = concat!("wgpu-attention-", env!("CARGO_PKG_VERSION"), ".crate");
        let bytes = workspace.target().join("package").join(name).metadata().unwrap().len();
        assert!(bytes <= 2_000_000, "{bytes} bytes: see `include` in Cargo.toml");
    }

    #[test]
    fn a_pass_is_composed_of_target_filter_and_arguments() {
        let workspace = Workspace::locate().unwrap();
        let tests = Tests {
            filter: Some("window".into()),
            args: vec!["--nocapture".into()],
            ..Tests::default()
        };
        assert_eq!(
            drivers::workspace::describe(&test_command(&workspace, DEVICE_TESTS, &tests)),
            "cargo test --workspace --all-features --no-fail-fast --test device window -- --nocapture"
        );
        assert_eq!(
            drivers::workspace::describe(&test_command(&workspace, &[], &Tests::default())),
            "cargo test --workspace --all-features --no-fail-fast --"
        );
    }
}
