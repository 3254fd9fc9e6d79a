//! The report: one table per kernel, of one GPU per vendor; the JSON beside it has all.

use std::fmt::Write as _;

use serde::Serialize;

use super::gpu::Gpu;
use super::listing::{Compiled, Stats, is_others};

/// A kernel on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) gpu: &'static str,
    #[serde(flatten)]
    pub(super) compiled: Compiled,
}

impl Row {
    /// Whether it's another program's.
    pub(super) fn is_others(&self) -> bool {
        is_others(&self.compiled.kernel)
    }

    /// Instructions per multiply-add of a step.
    pub(super) fn work(&self) -> Option<f64> {
        let step = self.compiled.step?;
        Some(step.instructions as f64 / step.products as f64)
    }
}

/// What stands beside what: the kernels of this crate, and others' for the same problem.
pub(super) const BESIDE: [(&str, &str, &str); 4] = [
    ("prefill", "forward tiled", "llama.cpp scalar, prefill"),
    ("prefill by matrices", "forward matrix", "llama.cpp matrix, prefill"),
    ("prefill by matrices, beside wavo", "forward matrix", "wavo matrix, prefill"),
    ("decode", "forward decode", "llama.cpp scalar, decode"),
];

/// Markdown: instructions per multiply-add of a step in f16, this crate's, the other's, and their quotient; a line per GPU.
pub(super) fn steps(rows: &[Row], gpus: &[Gpu]) -> String {
    let mut text = String::new();
    for (problem, own, other) in BESIDE {
        let work = |kernel: &str, gpu: &str, head_dim: usize| {
            let is_it = |row: &&Row| {
                let compiled = &row.compiled;
                (compiled.kernel.as_str(), row.gpu) == (kernel, gpu)
                    && (compiled.head_dim, compiled.dtype.as_str()) == (head_dim, "f16")
            };
            rows.iter().find(is_it).and_then(Row::work)
        };
        let cell = |gpu: &str, head_dim: usize| match (
            work(own, gpu, head_dim),
            work(other, gpu, head_dim),
        ) {
            (Some(own), Some(other)) => format!("{own:.2} / {other:.2} = {:.2}", own / other),
            (Some(own), None) => format!("{own:.2} / –"),
            (None, Some(other)) => format!("– / {other:.2}"),
            (None, None) => "–".to_owned(),
        };
        let lines: Vec<String> = (gpus.iter())
            .map(|gpu| (gpu.name, HEAD_DIMS.map(|head_dim| cell(gpu.name, head_dim))))
            .filter(|(_, cells)| cells.iter().any(|cell| cell != "–"))
            .map(|(name, cells)| format!("| {name} | {} |", cells.join(" | ")))
            .collect();
        if !lines.is_empty() {
            let heads = HEAD_DIMS.map(|head_dim| head_dim.to_string()).join(" | ");
            let rule = "---|".repeat(HEAD_DIMS.len() + 1);
            // Writing to a String can't fail.
            let _ = writeln!(text, "| {problem} | {heads} |\n|{rule}\n{}\n", lines.join("\n"));
        }
    }
    text
}

/// The lengths of rows that are compiled for.
pub(super) const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Markdown: under each kernel's name its table, a line per type and length of rows, a column per GPU.
pub(super) fn markdown(rows: &[Row], gpus: &[Gpu]) -> String {
    let mut text = String::new();
    for kernel in names(rows) {
        let of_kernel: Vec<&Row> =
            rows.iter().filter(|row| row.compiled.kernel == kernel).collect();
        let heads: Vec<&str> = gpus.iter().map(|gpu| gpu.name).collect();
        // Writing to a String can't fail.
        let _ = writeln!(text, "## {kernel}\n\n| head_dim, type | {} |", heads.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(gpus.len()));
        for line in of_kernel.iter().map(|row| line_of(row)).fold(Vec::new(), distinct) {
            let cell = |gpu: &Gpu| {
                let found =
                    of_kernel.iter().find(|row| row.gpu == gpu.name && line_of(row) == line);
                found.map_or_else(|| "–".to_owned(), |row| cell(&row.compiled.stats))
            };
            let cells: Vec<String> = gpus.iter().map(cell).collect();
            let _ = writeln!(text, "| {}, {} | {} |", line.0, line.1, cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

/// The rows that the page has room for: this crate's kernels with products, as models call them, with keys and values of 16 bits
/// and less.
pub(super) fn of_page(rows: &[Row]) -> Vec<Row> {
    const LEFT_OUT: [&str; 10] = [
        "merge",
        "backward terms",
        "inspect",
        "sequences check",
        "append",
        "pool blocks",
        "pick blocks",
        ", dropout",
        ", 8 rows",
        "up to 32 queries",
    ];
    let is_left_out = |row: &Row| LEFT_OUT.iter().any(|name| row.compiled.kernel.contains(name));
    let is_there = |row: &&Row| row.compiled.dtype != "f32" && !is_left_out(row);
    rows.iter().filter(|row| !row.is_others()).filter(is_there).cloned().collect()
}

/// Every kernel that has something in memory that was meant for registers, in words.
pub(super) fn in_memory(rows: &[Row]) -> Vec<String> {
    let own = rows.iter().filter(|row| !row.is_others());
    let uses = own.filter(|row| row.compiled.stats.uses_memory());
    uses.map(|Row { gpu, compiled }| {
        let Compiled { kernel, head_dim, dtype, stats, .. } = compiled;
        format!(
            "{kernel}, head_dim {head_dim}, {dtype}, on {gpu}: {} bytes, {} spills",
            stats.memory_bytes, stats.spills
        )
    })
    .collect()
}

fn names(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.compiled.kernel.as_str()).fold(Vec::new(), distinct)
}

fn line_of(row: &Row) -> (usize, &str) {
    (row.compiled.head_dim, row.compiled.dtype.as_str())
}

fn distinct<T: PartialEq>(mut found: Vec<T>, next: T) -> Vec<T> {
    if !found.contains(&next) {
        found.push(next);
    }
    found
}

/// Registers, occupancy and instructions; what is in memory stands out.
fn cell(stats: &Stats) -> String {
    let Stats { registers, occupancy, instructions, memory_bytes, spills, .. } = stats;
    let memory = match stats.uses_memory() {
        true => format!(", **{memory_bytes} B, {spills} spills**"),
        false => String::new(),
    };
    format!("{registers}/{occupancy}/{instructions}{memory}")
}

#[cfg(test)]
mod tests {
    use super::super::gpu::GPUS;
    use super::*;

    #[test]
    fn memory_stands_out() {
        let row = |gpu, memory_bytes| Row {
            gpu,
            compiled: Compiled {
                kernel: "merge".to_owned(),
                head_dim: 64,
                dtype: "f16".to_owned(),
                stats: Stats {
                    registers: 32,
                    occupancy: 8,
                    instructions: 99,
                    memory_bytes,
                    ..Stats::default()
                },
                step: None,
            },
        };
        let rows = [row("ga102", 0), row("m1", 16)];
        let gpus =
            GPUS.map(Some).into_iter().flatten().filter(|gpu| ["ga102", "m1"].contains(&gpu.name));
        let text = markdown(&rows, &gpus.collect::<Vec<_>>());
        assert!(
            text.contains("## merge\n\n| head_dim, type | ga102 | m1 |\n|---|---|---|\n"),
            "{text}"
        );
        assert!(text.contains("| 64, f16 | 32/8/99 | 32/8/99, **16 B, 0 spills** |"), "{text}");
        assert_eq!(in_memory(&rows), ["merge, head_dim 64, f16, on m1: 16 bytes, 0 spills"]);
    }
}
