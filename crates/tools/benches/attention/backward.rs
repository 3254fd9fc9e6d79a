//! The backward pass against the forward pass.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::{Mask, Problem, Session, Shape};
use wgpu_attention_tools::measure::{BackwardWorkload, Clock, in_turns};

use crate::arguments::Arguments;
use crate::{HEAD_DIM, verdict};

/// How many times the forward pass's time it may take: 7 products of its size instead of 2, and fewer of the rest.
const EXPECTED_RATIO: f64 = 3.0;

/// A problem of one sequence.
pub(crate) struct Case {
    heads: usize,
    seq_len: usize,
    causal: bool,
}

pub(crate) const CASES: [Case; 4] = [
    Case { heads: 8, seq_len: 512, causal: false },
    Case { heads: 8, seq_len: 512, causal: true },
    Case { heads: 8, seq_len: 1024, causal: true },
    Case { heads: 1, seq_len: 8192, causal: true },
];

impl Case {
    pub(crate) fn name(&self) -> String {
        let mask = if self.causal { "causal" } else { "full" };
        format!("backward {mask} T={} H={}", self.seq_len, self.heads)
    }

    /// Operations of the five products that the gradients need, two per kept pair and component.
    fn operations(&self) -> f64 {
        let t = self.seq_len as f64;
        let pairs = if self.causal { t * (t + 1.0) / 2.0 } else { t * t };
        10.0 * pairs * (self.heads * HEAD_DIM) as f64
    }
}

/// Both passes of one sequence.
pub(crate) fn passes(
    attention: &Session,
    heads: usize,
    seq_len: usize,
    causal: bool,
) -> Result<BackwardWorkload> {
    let mask = if causal { Mask::causal() } else { Mask::All };
    let problem = Problem::new(Shape::new(1, heads, seq_len, HEAD_DIM)).mask(mask);
    Ok(BackwardWorkload::new(attention, &problem)?)
}

/// A line of the report.
pub(crate) struct Line {
    name: String,
    kernel: BackwardKernel,
    forward: Duration,
    backward: Duration,
    operations: f64,
    rounds: usize,
    scratch: u64,
}

pub(crate) fn print_heading(progress: &ProgressBar) {
    progress.suspend(|| {
        println!(
            "\nbackward: f32, batch 1, head_dim {HEAD_DIM}; medians; GFLOP/s count five products of what the mask keeps\n"
        );
        println!(
            "{:<28}{:<11}{:>12}{:>9}{:>11}{:>7}{:>10}{:>8}{:>12}",
            "", "kernel", "backward", "GFLOP/s", "forward", "ratio", "expected", "rounds", "scratch"
        );
    });
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [forward, backward] = [self.forward, self.backward].map(|time| time.as_secs_f64());
        let ratio = backward / forward;
        write!(
            f,
            "{:<28}{:<11}{:>9.2} ms{:>9.2}{:>8.2} ms{ratio:>7.2}{:>10}{:>8}{:>8} KiB{}",
            self.name,
            self.kernel.name(),
            backward * 1e3,
            self.operations / backward * 1e-9,
            forward * 1e3,
            format!("< {EXPECTED_RATIO}"),
            self.rounds,
            self.scratch / 1024,
            verdict(ratio < EXPECTED_RATIO),
        )
    }
}

/// Lets both run in turns, after a first run of each that isn't counted.
pub(crate) fn run(
    case: &Case,
    attention: &Session,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    progress.set_message(case.name());
    let passes = passes(attention, case.heads, case.seq_len, case.causal)?;
    let samples = in_turns(
        clock,
        arguments.effort(),
        &[&|encoder| passes.forward(encoder), &|encoder| passes.backward(encoder)],
        |round| progress.set_message(format!("{}, round {round}", case.name())),
    )?;
    Ok(Line {
        name: case.name(),
        kernel: passes.plan().kernel(),
        rounds: samples[0].rounds(),
        forward: samples[0].busy(),
        backward: samples[1].busy(),
        operations: case.operations(),
        scratch: passes.plan().scratch_bytes(),
    })
}
