//! The steps of a generation loop against the device's own roofline: `decode`, few queries against a long cache, and
//! `prefill`, a prompt or a piece of one.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{AttentionBuffers, AttentionPlan, AuxBuffers, Kernels, Mask, Problem, Shape};
use wgpu_attention_tools::measure::{Clock, Contender, in_turns, uniform};

use crate::arguments::Arguments;
use crate::forward::{output, upload};
use crate::roofline::{Rates, Roofline};

/// What decoding should reach of its roofline, at least.
const EXPECTED_SHARE: f64 = 0.6;

/// A causal problem.
pub(crate) struct Case {
    what: &'static str,
    shape: Shape,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        let Shape { batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, .. } =
            self.shape;
        format!(
            "{} B={batch} H={num_heads}/{num_kv_heads} Tq={seq_len_q} Tk={seq_len_kv} D={head_dim}",
            self.what
        )
    }

    /// Operations that the result needs: two per product of a kept pair, for q kᵀ and for p v.
    fn operations(&self) -> f64 {
        let Shape { batch, num_heads, seq_len_q, seq_len_kv, head_dim, .. } = self.shape;
        let kept = (0..seq_len_q).map(|q_idx| seq_len_kv - seq_len_q + q_idx + 1).sum::<usize>();
        4.0 * (batch * num_heads * kept * head_dim) as f64
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let llama = Shape::new(1, 32, 1, 128).num_kv_heads(8);
    let small = Shape::new(8, 8, 1, 64);
    let case = |what, shape| Case { what, shape };
    vec![
        case("decode", llama.seq_len_kv(4096)),
        case("decode", small.seq_len_kv(2048)),
        case("decode", llama.seq_len_kv(4096).seq_len_q(4)),
        case("prefill", llama.seq_len_kv(512).seq_len_q(512)),
        // A piece of a prompt against what is in the cache and itself.
        case("prefill", llama.seq_len_kv(2048).seq_len_q(128)),
    ]
}

/// A line of the report.
pub(crate) struct Line {
    name: String,
    kernel: ForwardKernel,
    splits: usize,
    /// That the device worked, as the rates are taken from; and from beginning to end.
    time: Duration,
    wall: Duration,
    /// K and V once, and what the kernels move in all, where they count it.
    least_bytes: f64,
    bytes: Option<f64>,
    operations: f64,
    tokens: usize,
    rates: Rates,
    decodes: bool,
    rounds: usize,
}

pub(crate) fn print_heading(progress: &ProgressBar) {
    progress.suspend(|| {
        println!(
            "\nf32, causal; medians; the roofline is the slower of loading K and V once and of the multiplications, at the \
             rates of\nkernels that do nothing else, in the same measure of time\n"
        );
        println!(
            "{:<44}{:<14}{:>7}{:>12}{:>11}{:>11}{:>11}{:>9}{:>9}{:>9}{:>8}",
            "", "kernel", "splits", "time", "wall", "tokens/s", "bytes/K+V", "GB/s", "GFLOP/s", "share", "rounds"
        );
    });
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.as_secs_f64();
        let share = self.rates.seconds(self.least_bytes, self.operations) / time;
        let wall = format!("{:.2} ms", self.wall.as_secs_f64() * 1e3);
        let bytes =
            self.bytes.map_or("-".to_owned(), |bytes| format!("{:.3}", bytes / self.least_bytes));
        let slow = self.decodes && share < EXPECTED_SHARE;
        write!(
            f,
            "{:<44}{:<14}{:>7}{:>9.2} ms{wall:>11}{:>11.0}{bytes:>11}{:>9.2}{:>9.2}{:>8.0}%{:>8}{}\n{:44}of {:.2} GB/s and {:.2} GFLOP/s",
            self.name,
            self.kernel.name(),
            self.splits,
            time * 1e3,
            self.tokens as f64 / time,
            self.least_bytes / time * 1e-9,
            self.operations / time * 1e-9,
            100.0 * share,
            self.rounds,
            if slow { "   slower than expected" } else { "" },
            "",
            self.rates.load * 1e-9,
            self.rates.fma * 1e-9,
        )
    }
}

/// Lets the step and the roofline's kernels run in turns.
pub(crate) fn run(
    case: &Case,
    device: &wgpu::Device,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    progress.set_message(case.name());
    let shape = case.shape;
    let q = upload(device, &uniform(1, shape.q_len()?));
    let [k, v] = [(2, shape.k_len()?), (3, shape.v_len()?)]
        .map(|(seed, len)| upload(device, &uniform(seed, len)));
    let o = output(device, shape.o_len()?);
    let problem = Problem::new(shape).mask(Mask::causal());
    let plan = AttentionPlan::new(
        &Kernels::new(device, &Default::default()),
        &problem,
        &PlanOptions::default().kernel(arguments.kernel),
    )?;
    let buffers = AttentionBuffers {
        q: q.slice(..),
        k: k.slice(..),
        v: v.slice(..),
        aux: AuxBuffers::new(),
        o: o.slice(..),
        lse: None,
    };
    let roofline = Roofline::new(device, clock, &[&k, &v])?;
    let peaks = roofline.contenders();
    let step = |encoder: &mut wgpu::CommandEncoder| plan.encode(encoder, &buffers);
    let mut contenders: Vec<Contender<'_>> = vec![&step];
    contenders.extend(peaks.iter().map(|peak| peak as Contender<'_>));
    let samples = in_turns(clock, arguments.effort(), &contenders, |round| {
        progress.set_message(format!("{}, round {round}", case.name()));
    })?;
    Ok(Line {
        name: case.name(),
        kernel: plan.kernel(),
        splits: plan.num_splits(),
        rounds: samples[0].rounds(),
        time: samples[0].busy(),
        wall: samples[0].median(),
        least_bytes: (k.size() + v.size()) as f64,
        bytes: plan.bytes_moved().map(|bytes| bytes as f64),
        operations: case.operations(),
        tokens: shape.batch * shape.seq_len_q,
        rates: roofline.rates(&samples[1..]),
        decodes: plan.kernel().is_decode(),
    })
}
