//! The forward pass against the naive one.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use wgpu::util::DeviceExt as _;
use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::{AttentionBuffers, AttentionPlan, AuxBuffers, Mask, Problem, Session, Shape};
use wgpu_attention_tools::measure::{Clock, in_turns, uniform};

use crate::arguments::Arguments;
use crate::naive::Naive;
use crate::{HEAD_DIM, verdict};

/// A problem of one sequence.
pub(crate) struct Case {
    heads: usize,
    seq_len: usize,
    causal: bool,
    /// How many times faster than the naive passes the forward pass should be, at least.
    expected_ratio: f64,
}

/// Long sequences have fewer heads, so that the naive passes' scores fit a binding.
pub(crate) const CASES: [Case; 6] = [
    case(8, 512, false, 2.0),
    case(8, 512, true, 2.0),
    case(8, 1024, false, 4.0),
    case(8, 1024, true, 4.0),
    case(2, 4096, false, 8.0),
    case(2, 4096, true, 8.0),
];

const fn case(heads: usize, seq_len: usize, causal: bool, expected_ratio: f64) -> Case {
    Case { heads, seq_len, causal, expected_ratio }
}

impl Case {
    pub(crate) fn name(&self) -> String {
        format!(
            "forward {} T={} H={}",
            if self.causal { "causal" } else { "full" },
            self.seq_len,
            self.heads
        )
    }

    fn mask(&self) -> Mask {
        if self.causal { Mask::causal() } else { Mask::All }
    }

    /// Operations that the result needs: two per product of a kept pair, for q kᵀ and for p v.
    fn operations(&self) -> f64 {
        let t = self.seq_len as f64;
        let pairs = if self.causal { t * (t + 1.0) / 2.0 } else { t * t };
        4.0 * pairs * (self.heads * HEAD_DIM) as f64
    }
}

/// A line of the report.
pub(crate) struct Line {
    name: String,
    kernel: ForwardKernel,
    forward: Duration,
    naive: Duration,
    expected_ratio: f64,
    operations: f64,
    rounds: usize,
    difference: f32,
}

pub(crate) fn print_heading(progress: &ProgressBar) {
    progress.suspend(|| {
        println!("f32, batch 1, head_dim {HEAD_DIM}; medians; GFLOP/s count what the mask keeps\n");
        println!(
            "{:<29}{:<11}{:>11}{:>9}{:>11}{:>7}{:>10}{:>8}{:>12}",
            "",
            "kernel",
            "forward",
            "GFLOP/s",
            "naive",
            "ratio",
            "expected",
            "rounds",
            "difference"
        );
    });
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [forward, naive] = [self.forward, self.naive].map(|time| time.as_secs_f64());
        let ratio = naive / forward;
        write!(
            f,
            "{:<29}{:<11}{:>8.2} ms{:>9.2}{:>8.2} ms{ratio:>7.2}{:>10}{:>8}{:>12.1e}{}",
            self.name,
            self.kernel.name(),
            forward * 1e3,
            self.operations / forward * 1e-9,
            naive * 1e3,
            format!("> {}", self.expected_ratio),
            self.rounds,
            self.difference,
            verdict(ratio > self.expected_ratio),
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
    let device = attention.device();
    let shape = Shape::new(1, case.heads, case.seq_len, HEAD_DIM);
    let len = shape.q_len()?;
    let [q, k, v] = [1, 2, 3].map(|seed| upload(device, &uniform(seed, len)));
    let [o, naive_o] = [(); 2].map(|()| output(device, len));

    let problem = Problem::new(shape).mask(case.mask());
    let plan = AttentionPlan::new(
        attention.kernels(),
        &problem,
        &PlanOptions::default().kernel(arguments.kernel),
    )?;
    let naive = Naive::new(device, [&q, &k, &v, &naive_o], [case.heads, case.seq_len], case.causal);
    let buffers = AttentionBuffers {
        q: q.slice(..),
        k: k.slice(..),
        v: v.slice(..),
        aux: AuxBuffers::new(),
        o: o.slice(..),
        lse: None,
    };
    let samples = in_turns(
        clock,
        arguments.effort(),
        &[&|encoder| plan.encode(encoder, &buffers), &|encoder| {
            naive.encode(encoder);
            Ok(())
        }],
        |round| progress.set_message(format!("{}, round {round}", case.name())),
    )?;

    let read = |buffer| attention.read_blocking(buffer, len);
    let difference = max_difference(&read(&o)?, &read(&naive_o)?);
    ensure!(difference < 1e-4, "{}: the results differ by {difference}", case.name());
    Ok(Line {
        name: case.name(),
        kernel: plan.kernel(),
        rounds: samples[0].rounds(),
        forward: samples[0].busy(),
        naive: samples[1].busy(),
        expected_ratio: case.expected_ratio,
        operations: case.operations(),
        difference,
    })
}

pub(crate) fn upload<T: bytemuck::Pod>(device: &wgpu::Device, values: &[T]) -> wgpu::Buffer {
    device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        // What a mask reads is copied into the plan's own buffer.
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    })
}

pub(crate) fn output(device: &wgpu::Device, len: usize) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: len as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    // A NaN, which no comparison finds, counts as infinitely wrong.
    let difference =
        |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}
