//! `cargo xtask fuzz`: libFuzzer on the targets of `lab/fuzz`; what links it is a workspace of its own there.
//!
//! The counters that libFuzzer goes by are stable flags of rustc's ([`counted`]), so that neither a nightly compiler nor
//! cargo-fuzz is needed; libFuzzer itself is compiled by the package `libfuzzer-sys`, with the system's C++ compiler.

mod counted;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use drivers::workspace::Workspace;

/// What to fuzz.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this target; may be repeated.
    #[arg(long = "target", value_enum, value_name = "NAME")]
    targets: Vec<Target>,

    /// For how long, each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// How many targets at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,

    /// Put no counters into naga, which compiles WGSL: `wgsl` is built sooner, and finds less.
    #[arg(long)]
    without_naga: bool,

    /// Keep what was found: lab/fuzz/corpus/ is made anew from it, of as few inputs as reach as much, or 200 of these.
    #[arg(long)]
    keep: bool,

    /// Run one input, such as one that crashed, instead; needs one `--target`.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                                    a minute of each target
  cargo xtask fuzz --target wgsl --seconds 3600       an hour of one
  cargo xtask fuzz --target wgsl --replay FILE        one input again, with its panic message
  cargo xtask fuzz --seconds 600 --jobs 2             two targets at a time
  cargo xtask fuzz --seconds 600 --keep               then renew the corpus that is committed

It needs a C++ compiler. This crate and what reads files are compiled with coverage counters, the rest is
that of the tests; `wgsl` has naga with counters as well, and so half of wgpu is built once more, unless
`--without-naga` is given. Inputs that are found stay in target/fuzz/corpus/ for the next run, those that
crash in target/fuzz/crashes/. `cargo xtask test` runs the committed corpus without libFuzzer, and `cargo xtask ci`
fuzzes each target for 3 seconds, two at a time, without naga.";

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// Text as a mask: parsed, printed, parsed again.
    MaskText,
    /// Mask expressions on shapes: evaluator, f64 reference, and the kernels' validation.
    MaskShape,
    /// Bytes as a safetensors file.
    Tensors,
    /// Well-formed safetensors headers of absurd contents.
    TensorHeaders,
    /// Text as a user-defined function in WGSL.
    Wgsl,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::MaskText => "mask_text",
            Self::MaskShape => "mask_shape",
            Self::Tensors => "tensors",
            Self::TensorHeaders => "tensor_headers",
            Self::Wgsl => "wgsl",
        }
    }

    /// The texts of the crate's own kernels, which other targets have compiled, lead nowhere new in naga, and it is half as
    /// fast with counters.
    fn counts_naga(self, options: &Options) -> bool {
        matches!(self, Self::Wgsl) && !options.without_naga
    }
}

/// Inputs of a target that are committed, at most.
const MOST_KEPT: usize = 200;

/// An input has so many bytes at most, and so many seconds before it counts as hanging.
const LIMITS: [&str; 2] = ["-max_len=4096", "-timeout=20"];

/// In place of [`main`](crate::main), where cargo calls this program as its compiler.
pub(crate) use counted::compile;

/// `cargo xtask fuzz`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    counted::ensure_available()?;
    let targets = match options.targets.as_slice() {
        [] => Target::value_variants(),
        some => some,
    };
    if let Some(input) = &options.replay {
        let [target] = targets else { bail!("--replay needs the --target that the input is for") };
        // libFuzzer takes a name that isn't there for an option, or nothing.
        ensure!(input.is_file(), "there is no file {}", input.display());
        let (_, program) = build(workspace, &[*target], options)?.remove(0);
        let passed = Command::new(program).arg(input.canonicalize()?).status()?.success();
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let programs = build(workspace, targets, options)?;
    let (queue, bars) = (Mutex::new(programs.into_iter()), MultiProgress::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<bool> {
        let mut passed = true;
        while let Some((target, program)) = next() {
            passed &= fuzz(workspace, target, &program, options, &bars)?;
        }
        Ok(passed)
    };
    let passed = thread::scope(|scope| {
        let jobs: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        let joined = |job: ScopedJoinHandle<'_, _>| job.join().expect("fuzzing doesn't panic");
        jobs.into_iter().map(joined).collect::<Result<Vec<bool>>>()
    })?;
    Ok(if passed.iter().all(|&passed| passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The programs of targets.
fn build(
    workspace: &Workspace,
    targets: &[Target],
    options: &Options,
) -> Result<Vec<(Target, PathBuf)>> {
    let mut programs = Vec::new();
    for naga in [false, true] {
        let some: Vec<Target> =
            targets.iter().copied().filter(|target| target.counts_naga(options) == naga).collect();
        if some.is_empty() {
            continue;
        }
        let names: Vec<&str> = some.iter().map(|target| target.name()).collect();
        eprintln!("building {} …", names.join(", "));
        let files = counted::build(workspace, &names, naga)?;
        programs.extend(some.into_iter().zip(files));
    }
    Ok(programs)
}

/// Fuzzes one target; false where an input made it crash.
fn fuzz(
    workspace: &Workspace,
    target: Target,
    program: &Path,
    options: &Options,
    bars: &MultiProgress,
) -> Result<bool> {
    let name = target.name();
    let folder = |parts: [&str; 2]| workspace.root().join("lab/fuzz").join(parts[0]).join(parts[1]);
    let work = |kind: &str| workspace.target().join("fuzz").join(kind).join(name);
    let (committed, found, crashes) = (folder(["corpus", name]), work("corpus"), work("crashes"));
    for folder in [&committed, &found, &crashes] {
        fs::create_dir_all(folder)
            .with_context(|| format!("{} can't be made", folder.display()))?;
    }

    let mut command = Command::new(program);
    command
        .args(LIMITS)
        .args(["-print_final_stats=1", "-verbosity=1"])
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-artifact_prefix={}/", crashes.display()));
    let dictionary = workspace.root().join("lab/fuzz/dictionaries").join(format!("{name}.dict"));
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    // New inputs go to the first folder.
    command.args([&found, &committed]);
    // Only the last lines are shown of a program that crashed, and the panic's message is to be among them.
    command.env("RUST_BACKTRACE", "0");
    let end = watch(&mut command, name, options.seconds, bars)?;
    let seconds = end.took.as_secs();
    let Some(executions) = end.executions.filter(|_| end.passed) else {
        bars.suspend(|| {
            eprintln!("{}", end.last.text());
            eprintln!("{name}: FAILED after {seconds} s");
            if let Some(path) = end.artifact {
                let build = if options.without_naga { "--without-naga " } else { "" };
                eprintln!("  the input: {path}");
                if let Ok(bytes) = fs::read(&path) {
                    eprintln!("             {}", bytes.escape_ascii());
                }
                eprintln!("  again:     cargo xtask fuzz {build}--target {name} --replay {path}");
                eprintln!("  when it's mended, put it into {} to keep it so", committed.display());
            }
        });
        return Ok(false);
    };
    bars.suspend(|| println!("{name}: {executions} executions in {seconds} s, nothing found"));
    if options.keep {
        keep(program, &committed, &found, &work("kept"))?;
    }
    Ok(true)
}

/// How a run ended.
struct End {
    passed: bool,
    took: Duration,
    executions: Option<u64>,
    /// The input that crashed.
    artifact: Option<String>,
    last: Lines,
}

/// The last lines that a program wrote.
#[derive(Default)]
struct Lines(VecDeque<String>);

impl Lines {
    fn push(&mut self, line: String) {
        if self.0.len() == 40 {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Runs libFuzzer with a bar of the seconds, and reads what it says.
fn watch(command: &mut Command, name: &str, seconds: u64, bars: &MultiProgress) -> Result<End> {
    let start = Instant::now();
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} s  {msg}")
        .expect("the template is a constant that parses");
    let bar = ProgressBar::new(seconds).with_style(style).with_prefix(name.to_owned());
    let bar = bars.add(bar);
    if bar.is_hidden() {
        eprintln!("{name}: {seconds} s …");
    }
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} could not be started"))?;
    let output = child.stderr.take().context("the program's standard error was piped")?;
    let mut end = End {
        passed: false,
        took: Duration::ZERO,
        executions: None,
        artifact: None,
        last: Lines::default(),
    };
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            end.executions = count.trim().parse().ok();
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            end.artifact = Some(path.trim().to_owned());
        } else if let Some((count, state)) = line.strip_prefix('#').and_then(|l| l.split_once('\t'))
        {
            let coverage = state.split_whitespace().skip_while(|&word| word != "cov:").nth(1);
            bar.set_message(format!("{count} executions, coverage {}", coverage.unwrap_or("?")));
            bar.set_position(start.elapsed().as_secs().min(seconds));
            continue;
        }
        end.last.push(line);
    }
    end.passed = child.wait()?.success();
    end.took = start.elapsed();
    bar.finish_and_clear();
    Ok(end)
}

/// Puts some of the inputs that together reach what all of them reach in place of the committed ones.
fn keep(program: &Path, committed: &Path, found: &Path, kept: &Path) -> Result<()> {
    if kept.exists() {
        fs::remove_dir_all(kept)?;
    }
    fs::create_dir_all(kept)?;
    let mut merge = Command::new(program);
    merge.args(LIMITS).arg("-set_cover_merge=1").args([kept, committed, found]);
    let merged = merge.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(merged.success(), "the corpus could not be merged: {merged}");
    let mut files = Vec::new();
    for entry in fs::read_dir(kept)? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.file_name()));
    }
    files.sort();
    let all = files.len();
    // Those that were put there by hand have names of their own, and stay.
    let mut by_hand = 0;
    for entry in fs::read_dir(committed)? {
        let entry = entry?;
        let name = entry.file_name();
        let made =
            name.len() == 40 && name.to_string_lossy().chars().all(|c| c.is_ascii_hexdigit());
        if made {
            fs::remove_file(entry.path())?;
        } else {
            by_hand += 1;
        }
    }
    // Of all sizes: together the smallest alone reach less.
    let most = all.min(MOST_KEPT.saturating_sub(by_hand));
    let files: Vec<_> = (0..most).map(|at| &files[at * all / most]).collect();
    for (_, file) in &files {
        fs::copy(kept.join(file), committed.join(file))?;
    }
    println!("kept {} of {all} inputs in {}", files.len(), committed.display());
    Ok(())
}
