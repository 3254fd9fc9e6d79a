//! Kernels broken on purpose: each barrier is taken out in turn, and each bound is loosened by one. What the sanitizer finds
//! of them says what it would find of a mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu_attention::kernel::KernelOptions;
use wgsl_sanitizer::FindingKind;
use wgsl_sanitizer::device::{DeviceOptions, DispatchReport};

use crate::problems::{Outcome, case};
use crate::{attention, matrices_of};

/// What was done to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A barrier is missing.
    Barrier,
    /// A bound lets one more through.
    Bound,
}

/// A changed line, in every text that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mutant {
    /// What was done.
    pub kind: Kind,
    /// The function that the line is in.
    pub function: String,
    /// The line as it was.
    pub was: String,
    /// The line as it is.
    became: String,
    /// Its number among the function's lines that say the same, from 1.
    pub nth: usize,
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
}

/// A kernel that is broken.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// Its entry point: texts without it are left as they are.
    entry_point: &'static str,
    subgroup_size: u32,
    device_type: wgpu::DeviceType,
    /// The problems that are tried, cheap ones first.
    cases: &'static [&'static str],
}

const fn on_gpu(
    name: &'static str,
    entry_point: &'static str,
    cases: &'static [&'static str],
) -> Kernel {
    let device_type = wgpu::DeviceType::DiscreteGpu;
    Kernel { name, entry_point, subgroup_size: 32, device_type, cases }
}

const fn on_cpu(
    name: &'static str,
    entry_point: &'static str,
    cases: &'static [&'static str],
) -> Kernel {
    let device_type = wgpu::DeviceType::Cpu;
    Kernel { name, entry_point, subgroup_size: 8, device_type, cases }
}

const BACKWARD_MATRIX: &[&str] =
    &["backward matrix, kept NaN", "backward matrix", "backward matrix, 4,200 rows"];

/// All that have a barrier, and of the others enough for their bounds.
pub const KERNELS: &[Kernel] = &[
    on_gpu(
        "forward tiled",
        "forward",
        &["forward tiled, kept infinity", "forward tiled", "forward tiled, 4,200 keys"],
    ),
    on_gpu(
        "forward matrix",
        "forward",
        &["forward matrix, kept infinity", "forward matrix", "forward matrix, 4,200 keys"],
    ),
    on_gpu("forward decode", "forward", &["forward decode, kept infinity", "forward decode"]),
    on_cpu(
        "forward broadcast",
        "forward",
        &["forward broadcast, kept infinity", "forward broadcast", "forward broadcast, 4,200 keys"],
    ),
    on_cpu(
        "forward decode_lanes",
        "forward",
        &["forward decode_lanes, kept infinity", "forward decode_lanes"],
    ),
    on_gpu("merge", "merge", &["splits"]),
    on_gpu("backward tiled, dq", "backward_dq", &["backward tiled, kept NaN", "backward tiled"]),
    on_gpu(
        "backward tiled, dk and dv",
        "backward_dkdv",
        &["backward tiled, kept NaN", "backward tiled"],
    ),
    on_gpu("backward matrix, dq", "backward_dq", BACKWARD_MATRIX),
    on_gpu("backward matrix, dk and dv", "backward_dkdv", BACKWARD_MATRIX),
    on_cpu(
        "backward broadcast, dq",
        "backward_dq",
        &["backward broadcast, kept NaN", "backward broadcast"],
    ),
    on_gpu("backward sinks", "backward_sinks", &["backward, modifiers"]),
    on_gpu("backward slopes", "backward_slopes", &["backward, modifiers"]),
    on_gpu("backward bias", "backward_bias", &["backward, modifiers"]),
    on_gpu("backward custom", "backward_custom", &["backward, a learned table"]),
    on_gpu("backward custom sums", "backward_custom_sums", &["backward, a learned table"]),
    on_gpu("append", "append", &["append"]),
    on_gpu("sequences_check", "sequences_check", &["lengths beyond the cache", "append"]),
    on_gpu("weights", "weights", &["inspect, kept infinity", "inspect"]),
    on_gpu("pick_blocks", "pick_blocks", &["block indices"]),
    on_gpu("tile_map", "tile_map", &["forward tiled, kept infinity", "masks"]),
];

/// Barriers that can be taken out without a finding, each with its reason: kernel, function, line, number among the function's
/// lines that say the same, why.
pub const EXPLAINED: &[(&str, &str, &str, usize, &str)] = &[
    ("forward matrix", "await_stats", "storageBarrier();", 1, STATS_OF_MATRIX),
    ("forward matrix", "forward", "await_stats();", 1, STATS_OF_MATRIX),
    ("backward matrix, dk and dv", "rescaled", "subgroupBarrier();", 1, SAME_LANES),
];

const SAME_LANES: &str = "the strip's last readers have passed a barrier before; between one matrix and the next it orders a load and \
    a store whose elements lie in the same lanes in the sanitizer, and on devices needn't";

const STATS_OF_MATRIX: &str = "a row's lanes are of one subgroup, whose own barriers lie between; the sanitizer takes these as an \
    order of storage, too, and drivers needn't";

/// What a kernel does as it is.
#[derive(Debug)]
pub struct Whole {
    kernel: &'static Kernel,
    /// Every mutant of its texts, and the cases that execute its line.
    pub mutants: BTreeMap<Mutant, Vec<&'static str>>,
    /// Atomic accesses in no order that it has anyway.
    unordered: BTreeSet<Unordered>,
    operations: u64,
}

/// Two lines whose atomic accesses come in no order.
type Unordered = [String; 2];

/// What a missing barrier adds where all accesses are atomic: notes.
fn unordered(dispatch: &DispatchReport) -> impl Iterator<Item = Unordered> {
    let notes = dispatch.report.findings.iter();
    notes.filter(|found| found.kind == FindingKind::AtomicOrder).map(|found| {
        let other = found.other.as_ref().map(|other| other.at.text.clone());
        [found.at.text.clone(), other.unwrap_or_default()]
    })
}

impl Kernel {
    fn device(&self) -> DeviceOptions {
        let options = crate::with_matrices(crate::options());
        let Self { subgroup_size, device_type, .. } = *self;
        // Mutants run side by side.
        DeviceOptions { subgroup_size, device_type, on_dispatch: None, threads: 1, ..options }
    }

    fn is_in(&self, text: &str) -> bool {
        text.contains(&format!("\nfn {}(", self.entry_point))
    }

    fn run(&self, case_name: &str, options: DeviceOptions) -> Outcome {
        let Some(case) = case(case_name) else {
            return Outcome::Wrong(format!("there is no problem `{case_name}`"));
        };
        case.run(&attention(options, KernelOptions::default().matrices(matrices_of(16))))
    }

    /// Runs its problems as they are.
    ///
    /// # Errors
    /// What is wrong with one, in words.
    pub fn whole(&'static self) -> Result<Whole, String> {
        let mut whole = Whole {
            kernel: self,
            mutants: BTreeMap::new(),
            unordered: BTreeSet::new(),
            operations: 0,
        };
        for name in self.cases {
            let dispatches: Arc<Mutex<Vec<DispatchReport>>> = Arc::default();
            let ears = Arc::clone(&dispatches);
            let options = DeviceOptions {
                on_dispatch: Some(Arc::new(move |dispatch| {
                    ears.lock().unwrap_or_else(PoisonError::into_inner).push(dispatch.clone());
                })),
                ..self.device()
            };
            if let Outcome::Refused(words) | Outcome::Wrong(words) = self.run(name, options) {
                return Err(format!("{name}: {words}"));
            }
            let dispatches = dispatches.lock().unwrap_or_else(PoisonError::into_inner);
            let own: Vec<_> =
                dispatches.iter().filter(|dispatch| self.is_in(&dispatch.source)).collect();
            if own.is_empty() {
                return Err(format!("{name} runs no {}", self.entry_point));
            }
            for dispatch in own {
                whole.operations = whole.operations.max(dispatch.report.operations);
                whole.unordered.extend(unordered(dispatch));
                for (line, mutant) in mutants(&dispatch.source) {
                    let executes = whole.mutants.entry(mutant).or_default();
                    if dispatch.report.lines.contains(&line) && !executes.contains(name) {
                        executes.push(name);
                    }
                }
            }
        }
        Ok(whole)
    }
}

impl Whole {
    /// Runs a mutant on the problems that execute its line, until something is found.
    pub fn fate(&self, mutant: &Mutant, cases: &[&'static str]) -> Fate {
        let mut fate = Fate::Missed;
        for name in cases {
            match self.run(mutant, name) {
                found @ Fate::Found(_) => return found,
                off @ Fate::Off(_) => fate = off,
                Fate::Missed => {}
            }
        }
        fate
    }

    fn run(&self, mutant: &Mutant, case: &str) -> Fate {
        let new: Arc<Mutex<Option<Unordered>>> = Arc::default();
        let (ears, known) = (Arc::clone(&new), self.unordered.clone());
        let (kernel, broken) = (self.kernel, mutant.clone());
        let options = DeviceOptions {
            rewrite: Some(Arc::new(move |text: &str| match kernel.is_in(text) {
                true => broken.of(text),
                false => text.to_owned(),
            })),
            on_dispatch: Some(Arc::new(move |dispatch| {
                if let Some(pair) = unordered(dispatch).find(|pair| !known.contains(pair)) {
                    ears.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(pair);
                }
            })),
            // Loops that a mutant makes endless end by this.
            operation_limit: 4 * self.operations + 1_000_000,
            ..kernel.device()
        };
        // What is found during a submission without a scope is a panic.
        let run = std::panic::AssertUnwindSafe(|| kernel.run(case, options));
        let words = match std::panic::catch_unwind(run) {
            Ok(Outcome::Right) => {
                let new = new.lock().unwrap_or_else(PoisonError::into_inner).take();
                return new.map_or(Fate::Missed, |[own, other]| {
                    Fate::Found(format!("atomic accesses in no order: `{own}`, `{other}`"))
                });
            }
            Ok(Outcome::Refused(words) | Outcome::Wrong(words)) => words,
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
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { was, nth, function, .. } = self;
        write!(f, "`{was}` number {nth} of `{function}`")
    }
}

impl Mutant {
    /// Why nothing is found of a missing barrier.
    pub fn reason(&self, kernel: &str) -> Option<&'static str> {
        let is_it = |of: &&(&str, &str, &str, usize, &str)| {
            let own = (kernel, self.function.as_str(), self.was.as_str(), self.nth);
            self.kind == Kind::Barrier && (of.0, of.1, of.2, of.3) == own
        };
        EXPLAINED.iter().find(is_it).map(|(.., reason)| *reason)
    }

    /// A text with this change, where it has the line.
    fn of(&self, text: &str) -> String {
        let place = mutants(text).into_iter().find(|(_, mutant)| mutant == self);
        let Some((at, _)) = place else { return text.to_owned() };
        let line = |(number, line): (usize, &str)| match number + 1 == at as usize {
            true => self.became.clone(),
            false => line.to_owned(),
        };
        text.lines().enumerate().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Every way to break a text, with the line's number from 1.
fn mutants(text: &str) -> Vec<(u32, Mutant)> {
    let mut mutants: Vec<(u32, Mutant)> = Vec::new();
    let mut function = "";
    // Where keys are one segment, `await_stats` has no barrier in it.
    let calls_barrier = text.contains("storageBarrier();");
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(rest) = line.strip_prefix("fn ") {
            function = rest.split('(').next().unwrap_or_default();
        }
        let was = line.trim();
        for (kind, became) in changes(was, calls_barrier) {
            let is_same = |other: &&(u32, Mutant)| {
                other.1.function == function && other.1.was == was && other.1.became == became
            };
            let nth = 1 + mutants.iter().filter(is_same).count();
            let (function, was) = (function.to_owned(), was.to_owned());
            mutants.push((number, Mutant { kind, function, was, became, nth }));
        }
    }
    mutants
}

/// Every way to break a line.
fn changes(line: &str, calls_barrier: bool) -> Vec<(Kind, String)> {
    let mut changes = Vec::new();
    if line.starts_with("//") {
        return changes;
    }
    let calls = calls_barrier.then_some("await_stats();");
    let barriers = ["workgroupBarrier();", "storageBarrier();", "subgroupBarrier();"];
    for barrier in barriers.into_iter().chain(calls) {
        if line.contains(barrier) {
            changes.push((Kind::Barrier, line.replace(barrier, "")));
        }
    }
    // Of loops and conditions; `a >= b` ends what is beyond.
    let is_bound = line.contains("for (") || line.contains("if (");
    for (from, to) in [(" < ", " <= "), (" >= ", " > ")] {
        if is_bound && let Some((before, behind)) = line.split_once(from) {
            changes.push((Kind::Bound, format!("{before}{to}{behind}")));
        }
    }
    // Clamped indices.
    for (last, beyond) in [("_len - 1u)", "_len)"), ("_last)", "_last + 1u)")] {
        if line.contains("min(") && line.contains(last) {
            changes.push((Kind::Bound, line.replacen(last, beyond, 1)));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_are_taken_out_and_bounds_loosened_one_at_a_time() {
        let text = "fn f() {
    // workgroupBarrier();
    workgroupBarrier();
    for (var i = 0u; i < n; i += 1u) {
        workgroupBarrier();
    }
}
fn g() {
    let x = min(i, q_len - 1u);
    if (i >= n) { return; }
}";
        let found: Vec<_> = mutants(text)
            .into_iter()
            .map(|(line, mutant)| {
                let text = mutant.of(text);
                let changed = text.lines().nth(line as usize - 1).unwrap_or_default().to_owned();
                (mutant.kind, mutant.function, mutant.nth, line, changed)
            })
            .collect();
        let expected = [
            (Kind::Barrier, "f", 1, 3, ""),
            (Kind::Bound, "f", 1, 4, "for (var i = 0u; i <= n; i += 1u) {"),
            (Kind::Barrier, "f", 2, 5, ""),
            (Kind::Bound, "g", 1, 9, "let x = min(i, q_len);"),
            (Kind::Bound, "g", 1, 10, "if (i > n) { return; }"),
        ]
        .map(|(kind, function, nth, line, changed)| {
            (kind, function.to_owned(), nth, line, changed.to_owned())
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn explanations_name_kernels() {
        for (kernel, function, ..) in EXPLAINED {
            assert!(KERNELS.iter().any(|known| known.name == *kernel), "{kernel}, {function}");
        }
    }
}
