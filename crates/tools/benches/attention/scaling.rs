//! How time and memory grow with the sequence, and what a causal mask saves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{AttentionPlan, AuxData, Mask, Problem, Session, Shape};
use wgpu_attention_tools::measure::{Clock, Contender, Samples, Workload, in_turns};

use crate::arguments::Arguments;
use crate::backward::passes;
use crate::{HEAD_DIM, verdict};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// The time per kept cell from the shortest to the longest sequence.
    Time {
        causal: bool,
    },
    /// The causal mask's time over the full one's.
    Causal,
    /// What the device allocates beyond operands and outputs.
    Memory,
    /// The same two of the backward pass: what it holds between the passes and while it runs.
    BackwardCausal,
    BackwardMemory,
}

pub(crate) const CASES: [Case; 6] = [
    Case::Time { causal: false },
    Case::Time { causal: true },
    Case::Causal,
    Case::Memory,
    Case::BackwardCausal,
    Case::BackwardMemory,
];

const TIMED: [usize; 5] = [1024, 2048, 4096, 8192, 16_384];
/// The most expensive cell may cost so many times the cheapest.
const EXPECTED_SPREAD: f64 = 1.15;
const CAUSAL_SEQ_LEN: usize = 4096;
const EXPECTED_CAUSAL: f64 = 0.58;
const MEMORY: [usize; 2] = [4096, 32_768];
const BACKWARD_MEMORY: [usize; 4] = [4096, 8192, 16_384, 32_768];

impl Case {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Time { causal: false } => "itself full, time per cell".to_owned(),
            Self::Time { causal: true } => "itself causal, time per cell".to_owned(),
            Self::Causal => format!("itself causal over full, T={CAUSAL_SEQ_LEN}"),
            Self::Memory => "itself memory beyond operands and outputs".to_owned(),
            Self::BackwardCausal => format!("itself backward causal over full, T={CAUSAL_SEQ_LEN}"),
            Self::BackwardMemory => {
                "itself backward memory beyond operands and gradients".to_owned()
            }
        }
    }
}

/// Its report.
pub(crate) fn run(
    case: Case,
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<String> {
    progress.set_message(case.name());
    let report = match case {
        Case::Time { causal } => time_per_cell(causal, attention, clock, arguments, progress)?,
        Case::Causal => causal(attention, clock, arguments, progress)?,
        Case::Memory => memory(attention, clock)?,
        Case::BackwardCausal => backward_causal(attention, clock, arguments, progress)?,
        Case::BackwardMemory => backward_memory(attention)?,
    };
    Ok(format!("{}\n{report}", case.name()))
}

fn problem(seq_len: usize, causal: bool) -> Problem {
    let mask = if causal { Mask::causal() } else { Mask::All };
    Problem::new(Shape::new(1, 1, seq_len, HEAD_DIM)).mask(mask)
}

/// The problems in turns.
fn timed(
    problems: &[Problem],
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Vec<(f64, Samples)>> {
    let prepared = (problems.iter())
        .map(|problem| {
            let work = Workload::new(attention, problem, &AuxData::new())?;
            let kernels = attention.kernels();
            let plan = AttentionPlan::new(
                kernels,
                work.problem(),
                &PlanOptions::default().kernel(arguments.kernel),
            )?;
            Ok((work, plan))
        })
        .collect::<Result<Vec<_>>>()?;
    let records: Vec<_> =
        prepared.iter().map(|(work, plan)| |encoder: &mut _| work.encode(plan, encoder)).collect();
    let contenders: Vec<Contender<'_>> =
        records.iter().map(|record| record as Contender<'_>).collect();
    let message = progress.message();
    let samples = in_turns(clock, arguments.effort(), &contenders, |round| {
        progress.set_message(format!("{message}, round {round}"));
    })?;
    Ok(prepared.iter().map(|(work, _)| work.kept_cells()).zip(samples).collect())
}

fn time_per_cell(
    causal: bool,
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<String> {
    let problems = TIMED.map(|seq_len| problem(seq_len, causal));
    let times = timed(&problems, attention, clock, arguments, progress)?;
    let mut report = String::new();
    let mut costs = Vec::new();
    for (seq_len, (cells, samples)) in TIMED.iter().zip(&times) {
        let cost = samples.busy().as_secs_f64() * 1e9 / cells;
        costs.push(cost);
        report += &format!(
            "  T={seq_len:<7}{:>12}{cost:>10.3} ns per kept cell{:>5} rounds\n",
            ms(samples.busy()),
            samples.rounds()
        );
    }
    let most = costs.iter().copied().fold(0.0, f64::max);
    let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let spread = most / least;
    Ok(format!(
        "{report}  most over least {spread:.3}, expected < {EXPECTED_SPREAD}{}",
        verdict(spread <= EXPECTED_SPREAD)
    ))
}

fn causal(
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<String> {
    let problems = [true, false].map(|causal| problem(CAUSAL_SEQ_LEN, causal));
    let times = timed(&problems, attention, clock, arguments, progress)?;
    Ok(share([0, 1].map(|at| times[at].1.busy())))
}

fn backward_causal(
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<String> {
    let [causal, full] =
        [passes(attention, 1, CAUSAL_SEQ_LEN, true)?, passes(attention, 1, CAUSAL_SEQ_LEN, false)?];
    // Each reads what its own forward pass gave.
    for passes in [&causal, &full] {
        clock.time(|encoder| passes.forward(encoder))?;
    }
    let samples = in_turns(
        clock,
        arguments.effort(),
        &[&|encoder| causal.backward(encoder), &|encoder| full.backward(encoder)],
        |round| progress.set_message(format!("{}, round {round}", Case::BackwardCausal.name())),
    )?;
    Ok(share([samples[0].busy(), samples[1].busy()]))
}

fn share([causal, full]: [Duration; 2]) -> String {
    let share = causal.as_secs_f64() / full.as_secs_f64();
    format!(
        "  causal {}, full {}: {share:.3}, expected < {EXPECTED_CAUSAL}{}",
        ms(causal),
        ms(full),
        verdict(share <= EXPECTED_CAUSAL)
    )
}

/// o and lse, and what the backward plan has, per length.
fn backward_memory(attention: &Session) -> Result<String> {
    let mut report = String::new();
    let mut counts = Vec::new();
    for seq_len in BACKWARD_MEMORY {
        let bytes = passes(attention, 1, seq_len, true)?.held_bytes();
        counts.push(bytes as f64 / seq_len as f64);
        report += &format!(
            "  T={seq_len:<7}{bytes:>12} bytes, {:.2} for each query\n",
            bytes as f64 / seq_len as f64
        );
    }
    let is_linear = counts.windows(2).all(|pair| pair[1] <= pair[0]);
    Ok(format!("{report}  expected: never more for each{}", verdict(is_linear)))
}

/// What the device's allocator has given out more, after a plan has run, than for operands and outputs alone.
fn memory(attention: &Session, clock: &Clock) -> Result<String> {
    let allocated = || -> Result<u64> {
        let report = attention.device().generate_allocator_report();
        let report = report.context("the device's allocator doesn't report")?;
        Ok(report.allocations.iter().map(|allocation| allocation.size).sum())
    };
    let mut report = String::new();
    let mut counts = Vec::new();
    for seq_len in MEMORY {
        let work = Workload::new(attention, &problem(seq_len, true), &AuxData::new())?;
        // What is freed is freed when the queue is empty.
        clock.time(|_| Ok(()))?;
        let before = allocated()?;
        let plan = AttentionPlan::new(attention.kernels(), work.problem(), &Default::default())?;
        clock.time(|encoder| work.encode(&plan, encoder))?;
        let bytes = allocated()?.saturating_sub(before);
        counts.push(bytes as f64);
        report +=
            &format!("  T={seq_len:<7}{bytes:>12} bytes; operands and outputs {}\n", work.bytes());
    }
    let growth = counts[1] / counts[0];
    let longer = (MEMORY[1] / MEMORY[0]) as f64;
    Ok(format!(
        "{report}  {growth:.2} times as much for {longer} times the length, expected < {longer}{}",
        verdict(growth <= longer)
    ))
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
