//! What a program waits for at its start, with nothing kept on disk, with pipelines kept, and with the driver's own cache:
//! the first start and the second one, each a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cpu_time::ProcessTime;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::{AuxData, Inputs, Kernels, Mask, Problem, RunOptions, Session, Shape};
use wgpu_attention_tools::measure::uniform;

use crate::arguments::Arguments;

pub(crate) const NAME: &str = "start";

/// What is kept between the two starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    Pipelines,
    /// What Mesa's and NVIDIA's drivers do where nobody stops them.
    DriverCache,
}

const ALL: [Kept; 3] = [Kept::Nothing, Kept::Pipelines, Kept::DriverCache];

impl Kept {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing kept",
            Self::Pipelines => "pipelines kept (cache_dir)",
            Self::DriverCache => "the driver's own cache",
        }
    }
}

/// What one start reported.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// From the process's first line to the first result, the opening of the device included.
    wall_ms: f64,
    /// CPU time from the open device to the first result, less that of the same calls made again.
    compiling_ms: f64,
    /// Pipelines that the kernels made, compiled or taken from what was kept.
    pipelines: u64,
    /// Size and contents of what is kept, as a number.
    kept: (u64, u64),
}

/// A table of both starts in each condition.
pub(crate) fn run(arguments: &Arguments, progress: &ProgressBar) -> Result<String> {
    let rounds = if arguments.quick { 1 } else { 3 };
    let mut starts = vec![Vec::new(); ALL.len()];
    for round in 1..=rounds {
        for (kept, starts) in ALL.into_iter().zip(&mut starts) {
            progress.set_message(format!("{NAME}, {}, round {round}", kept.name()));
            let folder = Folder::new();
            starts.push([start(kept, &folder.0)?, start(kept, &folder.0)?]);
        }
    }
    let mut report = format!(
        "\n{NAME}: to the first result of a forward pass and a step of decoding, medians of {rounds} rounds\n\
         {:<28}{:>10}{:>13}{:>13}{:>15}{:>15}{:>12}\n",
        "", "pipelines", "first, wall", "second, wall", "compiling, CPU", "second, CPU", "kept"
    );
    for (kept, starts) in ALL.into_iter().zip(&starts) {
        let median = |which: usize, time: fn(&Start) -> f64| {
            let mut times: Vec<f64> = starts.iter().map(|both| time(&both[which])).collect();
            times.sort_by(f64::total_cmp);
            format!("{:.0} ms", times[times.len() / 2])
        };
        let [first, second] = starts[0];
        let unchanged = starts.iter().all(|[first, second]| first.kept == second.kept);
        let what = match (kept, first.kept.0) {
            (Kept::Nothing, _) => "-".to_owned(),
            (_, 0) => "0 bytes".to_owned(),
            (_, bytes) if unchanged => format!("{bytes} bytes, the second start adds none"),
            (_, bytes) => format!("{bytes} bytes, then {}", second.kept.0),
        };
        report += &format!(
            "{:<28}{:>10}{:>13}{:>13}{:>15}{:>15}   {what}\n",
            kept.name(),
            first.pipelines,
            median(0, |start| start.wall_ms),
            median(1, |start| start.wall_ms),
            median(0, |start| start.compiling_ms),
            median(1, |start| start.compiling_ms),
        );
    }
    Ok(report)
}

fn start(kept: Kept, folder: &Path) -> Result<Start> {
    // By the name that it was called by: where another program starts it, that is the current executable.
    let program = std::env::args_os().next().context("the process has no name")?;
    let mut command =
        match std::env::var_os("WGPU_ATTENTION_RUNNER").filter(|name| !name.is_empty()) {
            Some(runner) => {
                let mut command = Command::new(runner);
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
    command.arg("--start");
    if kept == Kept::Pipelines {
        command.arg(folder);
    }
    if kept == Kept::DriverCache {
        command.env_remove("MESA_SHADER_CACHE_DISABLE").env("MESA_SHADER_CACHE_DIR", folder);
        command.env("__GL_SHADER_DISK_CACHE", "1").env("__GL_SHADER_DISK_CACHE_PATH", folder);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "a start ended: {}", output.status);
    let reply: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| reply[name].as_f64().context("a start didn't tell its times");
    Ok(Start {
        wall_ms: number("wall_ms")?,
        compiling_ms: number("compiling_ms")?,
        pipelines: reply["pipelines"].as_u64().context("a start didn't count its pipelines")?,
        kept: contents(folder)?,
    })
}

/// What `--start [FOLDER]` does: one start.
pub(crate) fn once(folder: Option<&Path>) -> Result<()> {
    let begun = Instant::now();
    let opened = Session::open_blocking(&Default::default())?;
    let options = KernelOptions::default().cache_dir(folder.map(Path::to_owned));
    let kernels = Kernels::new(opened.device(), &options);
    let attention = Session::from_kernels(&kernels, opened.queue());
    let shape = Shape::new(1, 4, 128, 64);
    let data = AuxData::new().key_padding((0..128).map(|at| at < 100));
    let [q, k, v] = [1, 2, 3].map(|seed| uniform(seed, 4 * 128 * 64));
    let forward = Problem::new(shape).mask(Mask::causal() & Mask::KeyPadding);
    let decode = Problem::new(Shape::new(1, 4, 1, 64).seq_len_kv(128)).mask(Mask::KeyPadding);
    let results = || -> Result<ProcessTime> {
        for (problem, q) in [(&forward, &q[..]), (&decode, &q[..4 * 64])] {
            let inputs = Inputs::new(q, &k, &v).aux(&data);
            attention.run_blocking(problem, &inputs, &RunOptions::default())?;
        }
        Ok(ProcessTime::now())
    };
    let before = ProcessTime::now();
    let first = results()?;
    let wall = begun.elapsed();
    let second = results()?;
    let again = second.duration_since(first);
    let compiling = first.duration_since(before).saturating_sub(again);
    println!(
        "{}",
        json!({ "wall_ms": wall.as_secs_f64() * 1e3, "compiling_ms": compiling.as_secs_f64() * 1e3,
            "pipelines": kernels.compiled() })
    );
    Ok(())
}

/// How many bytes the files of a folder have, and a number that changes with any of them.
fn contents(folder: &Path) -> Result<(u64, u64)> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let (mut bytes, mut hasher) = (0, DefaultHasher::new());
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        // Nothing may have been made.
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        let contents = std::fs::read(&file)?;
        bytes += contents.len() as u64;
        (file, contents).hash(&mut hasher);
    }
    Ok((bytes, hasher.finish()))
}

/// A folder of one pair of starts, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("wgpu-attention-start-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
