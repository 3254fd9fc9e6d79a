//! What a program's first and second start wait for their pipelines, by the compiler of GPUs that aren't there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use drivers::workspace::describe;

use super::compiler::Compiler;
use super::family::Family;
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

/// A family's line: medians of [`ROUNDS`] pairs of starts, and of one more what the driver compiled.
pub(super) fn line(compiler: &Compiler, family: &Family, folder: &Path) -> Result<String> {
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (times, start) in times.iter_mut().zip(pair(compiler, family, folder, "")?) {
            times.push(start.ms);
        }
    }
    let [first, second] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    });
    // Reports take time, so they have a pair of their own.
    let reports = pair(compiler, family, folder, "shaderstats")?;
    let kept: u64 =
        fs::read_dir(folder)?.map(|file| Ok(file?.metadata()?.len())).sum::<Result<_>>()?;
    Ok(format!(
        "| {} | {} | {} | {first:.0} ms | {} | {second:.0} ms | {:.0} KiB |",
        family.name,
        reports[0].pipelines,
        reports[0].compiled,
        reports[1].compiled,
        kept as f64 / 1024.0
    ))
}

/// The first start, which finds nothing, and the second one.
fn pair(compiler: &Compiler, family: &Family, folder: &Path, debug: &str) -> Result<[Start; 2]> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok([start(compiler, family, folder, debug)?, start(compiler, family, folder, debug)?])
}

fn start(compiler: &Compiler, family: &Family, folder: &Path, debug: &str) -> Result<Start> {
    let mut command = compiler.command(family);
    // The driver's own cache would find everything the second time, whatever is kept.
    command.arg("--keep").arg(folder).env("MESA_SHADER_CACHE_DISABLE", "true");
    command.env("RADV_DEBUG", debug);
    let done = compiler.run(&mut command, family)?;
    let told = String::from_utf8_lossy(&done.stdout);
    let mut words = told.split_whitespace();
    let mut number = || words.next()?.parse::<f64>().ok();
    let (pipelines, seconds) = (number(), number());
    let (Some(pipelines), Some(seconds)) = (pipelines, seconds) else {
        anyhow::bail!("`{}` told {told:?}", describe(&command));
    };
    ensure!(pipelines > 0.0, "nothing was compiled for {}", family.name);
    let reports = String::from_utf8_lossy(&done.stderr);
    Ok(Start {
        pipelines: pipelines as usize,
        ms: seconds * 1e3,
        compiled: reports.matches(listing::STATISTICS).count(),
    })
}
