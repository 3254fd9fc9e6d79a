//! What a program's first and second start wait for their pipelines, by the compiler of GPUs that aren't there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use drivers::workspace::describe;

use super::compiler::Compiler;
use super::gpu::Gpu;
use super::listing;

const ROUNDS: usize = 3;

/// Markdown's head of the lines that [`line()`] makes.
pub(super) const HEADER: &str = "\
| GPU | pipelines | compiled by the first start | time | compiled by the second | time | kept |
|---|---|---|---|---|---|---|";

/// What one start took.
struct Start {
    pipelines: usize,
    ms: f64,
    /// The kernels on which the driver's compiler reported.
    compiled: usize,
}

/// A GPU's line: medians of [`ROUNDS`] pairs of starts, and of one more what the driver compiled.
pub(super) fn line(compiler: &Compiler, gpu: Gpu, folder: &Path) -> Result<String> {
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (times, start) in times.iter_mut().zip(pair(compiler, gpu, folder, false)?) {
            times.push(start.ms);
        }
    }
    let [first, second] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    });
    // Reports take time, so they have a pair of their own.
    let reports = pair(compiler, gpu, folder, true)?;
    let kept: u64 =
        fs::read_dir(folder)?.map(|file| Ok(file?.metadata()?.len())).sum::<Result<_>>()?;
    Ok(format!(
        "| {} | {} | {} | {first:.0} ms | {} | {second:.0} ms | {:.0} KiB |",
        gpu.name,
        reports[0].pipelines,
        reports[0].compiled,
        reports[1].compiled,
        kept as f64 / 1024.0
    ))
}

/// The first start, which finds nothing, and the second one.
fn pair(compiler: &Compiler, gpu: Gpu, folder: &Path, prints: bool) -> Result<[Start; 2]> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok([start(compiler, gpu, folder, prints)?, start(compiler, gpu, folder, prints)?])
}

fn start(compiler: &Compiler, gpu: Gpu, folder: &Path, prints: bool) -> Result<Start> {
    let mut command = compiler.command(gpu)?;
    command.arg("--keep").arg(folder);
    if prints {
        let (name, value) = gpu.printing();
        command.env(name, value);
    }
    let done = command
        .output()
        .with_context(|| format!("`{}` could not be started", describe(&command)))?;
    let told = String::from_utf8_lossy(&done.stdout);
    let mut words = told.split_whitespace();
    let mut number = || words.next()?.parse::<f64>().ok();
    let (pipelines, seconds) = (number(), number());
    let (Some(pipelines), Some(seconds)) = (pipelines, seconds) else {
        bail!("`{}` told {told:?}", describe(&command));
    };
    ensure!(pipelines > 0.0, "nothing was compiled for {}", gpu.name);
    let reports = String::from_utf8_lossy(&done.stderr);
    Ok(Start {
        pipelines: pipelines as usize,
        ms: seconds * 1e3,
        compiled: listing::kernels(gpu.driver, &reports),
    })
}
