//! Kernels broken on purpose: each barrier is taken out in turn, and each bound is loosened by one. What the sanitizer finds
//! of them says what it would find of a mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wgpu_attention::kernel::KernelOptions;
use wgsl_sanitizer::device::{DeviceOptions, DispatchReport};
use wgsl_sanitizer::{Finding, FindingKind};

use crate::problems::{CASES, Case, Outcome};
use crate::{attention, matrices_of};

/// What was done to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A barrier is missing.
    Barrier,
    /// A bound lets one more through.
    Bound,
}

/// A broken kernel.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// What was done.
    pub kind: Kind,
    /// The line's number in the kernel's text.
    pub line: usize,
    /// The line as it was.
    pub was: String,
    /// The whole text.
    text: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The sanitizer found something, in its words.
    Found(String),
    /// Nothing was found, but the result is off.
    Off(String),
    /// Nothing.
    Missed,
    /// The text isn't valid any more.
    Invalid,
}

/// The kernels that are broken, and with which subgroups. Of those that have no barrier, bounds alone.
pub const KERNELS: &[(&str, u32, wgpu::DeviceType)] = &[
    ("forward broadcast", 8, wgpu::DeviceType::Cpu),
    ("forward tiled", 32, wgpu::DeviceType::DiscreteGpu),
    ("forward matrix", 32, wgpu::DeviceType::DiscreteGpu),
    ("forward decode_lanes", 32, wgpu::DeviceType::DiscreteGpu),
    ("forward decode", 32, wgpu::DeviceType::DiscreteGpu),
    ("merge", 32, wgpu::DeviceType::DiscreteGpu),
    ("backward broadcast, dq", 8, wgpu::DeviceType::Cpu),
    ("backward tiled, dq", 32, wgpu::DeviceType::DiscreteGpu),
    ("backward tiled, dk and dv", 32, wgpu::DeviceType::DiscreteGpu),
    ("backward bias", 32, wgpu::DeviceType::DiscreteGpu),
    ("backward sinks", 32, wgpu::DeviceType::DiscreteGpu),
    ("append", 32, wgpu::DeviceType::DiscreteGpu),
];

/// The case of a kernel's name.
pub fn case(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

fn device(subgroup_size: u32, device_type: wgpu::DeviceType) -> DeviceOptions {
    let options = crate::with_matrices(crate::options());
    DeviceOptions { subgroup_size, device_type, on_dispatch: None, ..options }
}

fn kernel_options() -> KernelOptions {
    KernelOptions::default().matrices(matrices_of(16))
}

/// A text with the case's entry point, and the lines of it that the case executes.
pub struct Whole {
    /// The text.
    pub text: String,
    /// From 1.
    pub lines: BTreeSet<u32>,
    /// Whether atomic accesses come in no order as it is.
    pub is_unordered: bool,
}

/// Whether a dispatch has atomic accesses in no order: a note, which a missing barrier adds.
fn is_unordered(dispatch: &DispatchReport) -> bool {
    let is_note = |found: &Finding| found.kind == FindingKind::AtomicOrder;
    dispatch.report.findings.iter().any(is_note)
}

/// Runs a case as it is.
///
/// # Errors
/// What is wrong with it, in words.
pub fn whole(
    case: &Case,
    subgroup_size: u32,
    device_type: wgpu::DeviceType,
) -> Result<Whole, String> {
    let seen: Arc<Mutex<BTreeMap<String, BTreeSet<u32>>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let unordered = Arc::new(AtomicBool::new(false));
    let ears = Arc::clone(&unordered);
    let entry_point = format!("fn {}(", case.entry_point);
    let options = DeviceOptions {
        on_dispatch: Some(Arc::new(move |dispatch| {
            if dispatch.source.contains(&entry_point) {
                let mut seen = notes.lock().unwrap_or_else(PoisonError::into_inner);
                let lines = seen.entry(dispatch.source.to_string()).or_default();
                lines.extend(&dispatch.report.lines);
                ears.fetch_or(is_unordered(dispatch), Ordering::Relaxed);
            }
        })),
        ..device(subgroup_size, device_type)
    };
    if let Outcome::Refused(words) | Outcome::Wrong(words) =
        case.run(&attention(options, kernel_options()))
    {
        return Err(words);
    }
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let first = seen.pop_first();
    let (text, lines) = first.ok_or_else(|| format!("it runs no {}", case.entry_point))?;
    Ok(Whole { text, lines, is_unordered: unordered.load(Ordering::Relaxed) })
}

/// Every way to break a text.
pub fn mutants(text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let mut mutants = Vec::new();
    for (at, &was) in lines.iter().enumerate() {
        let mut add = |kind, new: String| {
            let mut lines = lines.clone();
            lines[at] = &new;
            let text = lines.join("\n");
            mutants.push(Mutant { kind, line: at + 1, was: was.trim().to_owned(), text });
        };
        if was.trim_start().starts_with("//") {
            continue;
        }
        for barrier in ["workgroupBarrier();", "storageBarrier();"] {
            if was.contains(barrier) {
                add(Kind::Barrier, was.replace(barrier, ""));
            }
        }
        // Of loops and conditions; `a >= b` ends what is beyond.
        let is_bound = was.contains("for (") || was.contains("if (");
        for (from, to) in [(" < ", " <= "), (" >= ", " > ")] {
            if is_bound && let Some((before, behind)) = was.split_once(from) {
                add(Kind::Bound, format!("{before}{to}{behind}"));
            }
        }
        // Clamped indices.
        for last in ["_len - 1u)", "_last)"] {
            if was.contains("min(") && was.contains(last) {
                let beyond = if last.starts_with("_len") { "_len)" } else { "_last + 1u)" };
                add(Kind::Bound, was.replacen(last, beyond, 1));
            }
        }
    }
    mutants
}

/// Runs a case with one of its texts broken.
pub fn run(
    case: &Case,
    subgroup_size: u32,
    device_type: wgpu::DeviceType,
    whole: &Whole,
    mutant: &Mutant,
) -> Fate {
    if wgsl_sanitizer::Shader::from_wgsl(&mutant.text).is_err() {
        return Fate::Invalid;
    }
    let (text, broken) = (whole.text.clone(), mutant.text.clone());
    let unordered = Arc::new(AtomicBool::new(whole.is_unordered));
    let ears = Arc::clone(&unordered);
    let is_unordered_already = whole.is_unordered;
    let options = DeviceOptions {
        rewrite: Some(Arc::new(move |own: &str| match own == text {
            true => broken.clone(),
            false => own.to_owned(),
        })),
        on_dispatch: Some(Arc::new(move |dispatch| {
            ears.fetch_or(is_unordered(dispatch), Ordering::Relaxed);
        })),
        time_limit: std::time::Duration::from_secs(20),
        ..device(subgroup_size, device_type)
    };
    // What is found during a submission without a scope is a panic.
    let run = || case.run(&attention(options, kernel_options()));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let words = match outcome {
        Ok(Outcome::Right) if unordered.load(Ordering::Relaxed) && !is_unordered_already => {
            return Fate::Found("atomic accesses in no order".to_owned());
        }
        Ok(Outcome::Right) => return Fate::Missed,
        Ok(Outcome::Refused(reason)) => reason,
        Ok(Outcome::Wrong(words)) => words,
        Err(panic) => match panic.downcast::<String>() {
            Ok(words) => *words,
            Err(_) => "a panic".to_owned(),
        },
    };
    if words.contains("  by invocation ") || words.contains("the dispatch wasn't done") {
        Fate::Found(words)
    } else {
        Fate::Off(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_are_taken_out_and_bounds_loosened_one_at_a_time() {
        let text = "// workgroupBarrier();\nfor (var i = 0u; i < n; i += 1u) {\n    workgroupBarrier();\n}\nlet x = min(i, q_len - 1u);\nif (i >= n) { return; }";
        let found: Vec<_> = mutants(text)
            .into_iter()
            .map(|mutant| {
                let changed =
                    mutant.text.lines().nth(mutant.line - 1).unwrap_or_default().to_owned();
                (mutant.kind, mutant.line, changed)
            })
            .collect();
        assert_eq!(
            found,
            [
                (Kind::Bound, 2, "for (var i = 0u; i <= n; i += 1u) {".to_owned()),
                (Kind::Barrier, 3, "    ".to_owned()),
                (Kind::Bound, 5, "let x = min(i, q_len);".to_owned()),
                (Kind::Bound, 6, "if (i > n) { return; }".to_owned()),
            ]
        );
    }
}
