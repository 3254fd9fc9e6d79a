//! docs/benchmarks.md, from the figures that are kept.

use std::fmt::Write as _;

use super::install;
use super::results::{About, Results};

/// What the page begins with.
const PREFACE: &str = "\
# Benchmarks

How long this crate takes beside others that compute the same, on the same machine. **No GPU was timed yet**: the device is a
software driver, which says how the kernels compare with others on the same driver, not how fast a GPU runs them. What GPUs
would execute is counted in [isa.md](isa.md); real models are timed in [models.md](models.md).

![CPU time over that of wgpu-attention, for each shape and contender](benchmarks.svg)

## On your own device

`wgpu-attention bench` measures what your device can do, with kernels that only multiply and add or only copy, and then which
share of that a standard set of problems reaches: a table and a plot. `wgpu-attention report` also checks the results, and
writes a folder to send in. `wgpu-attention tune` finds the fastest kernels for your problems.

What these figures leave out has a command each: `cargo xtask bench -- sparse` (time over the share of kept cells), `itself`
(memory, and time by length), `backward`, `decode`, `compile`, `start`.

## How it was measured

`cargo xtask compare --write docs/benchmarks.md` installs the others below the target folder, runs all of them interleaved, one
call each, and writes this page. Operands are f32, uniform in [-2, 2). Times are medians of whole calls, from the host's call
until the result is there. CPU time is that of all of the process's threads. Ratios are times over those of wgpu-attention in the
same run. Results are compared with attention in f64 on 64 rows of every head: a relative error above 2e-3 is wrong. Of gradients, dq, dk
and dv of two kv heads are compared.

PyTorch and llama.cpp's CPU kernels run on the processor itself, the others on the Vulkan device, which here is the same
processor: CPU time is what compares them. The hosts of cubek and burn are built without optimisation, which adds up to 4 ms of
CPU time to a call.

The figures are kept in benchmarks.json. Each run replaces the rows that it measured; the last column names the run.
";

/// The page.
pub(super) fn markdown(results: &Results) -> String {
    let cell = |text: &str| text.replace('|', "/").replace('\n', " ");
    let mut text = PREFACE.to_owned();
    text += "\n| run | command | day | processor | device |\n|---|---|---|---|---|\n";
    for About { id, date, command, processor, device } in &results.runs {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "| {id} | `{}` | {date} | {} | {} |",
            cell(command),
            cell(processor),
            cell(device)
        );
    }
    text += "\n| contender | what it is |\n|---|---|\n";
    let mut contenders: Vec<(&str, &str)> = Vec::new();
    for row in &results.rows {
        if !contenders.contains(&(&row.contender, &row.about)) {
            contenders.push((&row.contender, &row.about));
        }
    }
    contenders.sort_by_key(|(name, _)| install::place(name));
    for (name, about) in contenders {
        let _ = writeln!(text, "| {name} | {} |", cell(about));
    }
    let _ =
        write!(text, "\n## Over all shapes\n\n```text\n{}```\n\n## By shape\n", results.ratios());
    for shape in results.distinct(|row| &row.shape) {
        let _ = write!(
            text,
            "\n### {shape}\n\n| | median | CPU time | GFLOP/s | ratio | CPU ratio | rounds | rel. error | run |\n\
             |---|---|---|---|---|---|---|---|---|\n"
        );
        for row in results.of_shape(shape) {
            let cells = match row.cells() {
                Ok(cells) => cells.join(" | "),
                Err(reason) => {
                    format!("not there: {}{}", cell(&shortened(reason)), " |".repeat(6))
                }
            };
            let _ = writeln!(text, "| {} | {cells} | {} |", row.contender, row.run);
        }
    }
    text
}

/// As much of a reason as fits into a table.
fn shortened(reason: &str) -> String {
    const MOST: usize = 120;
    match reason.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", reason[..end].trim_end()),
        None => reason.to_owned(),
    }
}
