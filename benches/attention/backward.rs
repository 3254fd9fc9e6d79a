//! The backward pass against the forward pass.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use wgpu_attention::measure::{Clock, in_turns, uniform};
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionPlan, BackwardBuffers, BackwardKernel, BackwardPlan,
    Mask, MaskBuffers, Problem, Shape,
};

use crate::arguments::Arguments;
use crate::forward::{output, upload};
use crate::{HEAD_DIM, verdict};

const HEADS: usize = 8;

/// How many times the forward pass's time it may take: 7 products of its size instead of 2, and fewer of the rest.
const EXPECTED_RATIO: f64 = 3.0;

/// A problem of one sequence and `HEADS` heads.
pub(crate) struct Case {
    seq_len: usize,
    causal: bool,
}

pub(crate) const CASES: [Case; 3] = [
    Case { seq_len: 512, causal: false },
    Case { seq_len: 512, causal: true },
    Case { seq_len: 1024, causal: true },
];

impl Case {
    pub(crate) fn name(&self) -> String {
        format!("backward {} T={}", if self.causal { "causal" } else { "full" }, self.seq_len)
    }

    /// Operations of the five products that the gradients need, two per kept pair and component.
    fn operations(&self) -> f64 {
        let t = self.seq_len as f64;
        let pairs = if self.causal { t * (t + 1.0) / 2.0 } else { t * t };
        10.0 * pairs * (HEADS * HEAD_DIM) as f64
    }
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
            "\nbackward: f32, batch 1, {HEADS} heads, head_dim {HEAD_DIM}; medians; GFLOP/s count five products of what \
             the mask keeps\n"
        );
        println!(
            "{:<24}{:<11}{:>12}{:>9}{:>11}{:>7}{:>10}{:>8}{:>12}",
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
            "{:<24}{:<11}{:>9.2} ms{:>9.2}{:>8.2} ms{ratio:>7.2}{:>10}{:>8}{:>8} KiB{}",
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
    attention: &Attention,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    progress.set_message(case.name());
    let device = attention.device();
    let shape = Shape::new(1, HEADS, case.seq_len, HEAD_DIM);
    let len = shape.q_len()?;
    let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| upload(device, &uniform(seed, len)));
    let [o, dq, dk, dv] = [(); 4].map(|()| output(device, len));
    let lse = output(device, shape.lse_len()?);
    let [q, k, v, dout] = [&q, &k, &v, &dout].map(|buffer| buffer.slice(..));
    let [o, lse] = [&o, &lse].map(|buffer| buffer.slice(..));

    let kernels = attention.kernels();
    let mask = if case.causal { Mask::causal() } else { Mask::All };
    let problem = Problem::new(shape).mask(mask);
    let forward = AttentionPlan::new(kernels, &problem)?;
    let backward = BackwardPlan::new(kernels, &problem)?;
    let buffers = AttentionBuffers { q, k, v, mask: MaskBuffers::new(), o, lse: Some(lse) };
    let gradients = BackwardBuffers {
        dq: Some(dq.slice(..)),
        dk: Some(dk.slice(..)),
        dv: Some(dv.slice(..)),
        ..BackwardBuffers::new(q, k, v, o, lse, dout)
    };
    let samples = in_turns(
        clock,
        arguments.effort(),
        &[&|encoder| forward.encode(encoder, &buffers), &|encoder| {
            backward.encode(encoder, &gradients)
        }],
        |round| progress.set_message(format!("{}, round {round}", case.name())),
    )?;
    Ok(Line {
        name: case.name(),
        kernel: backward.kernel(),
        rounds: samples[0].rounds(),
        forward: samples[0].busy(),
        backward: samples[1].busy(),
        operations: case.operations(),
        scratch: backward.scratch_bytes(),
    })
}
