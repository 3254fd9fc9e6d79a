//! The forward pass against the naive one.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use wgpu::util::DeviceExt as _;
use wgpu_attention::{
    Attention, AttentionBuffers, AttentionPlan, ForwardKernel, Kernels, Mask, MaskBuffers, Problem,
    Shape,
};

use crate::HEAD_DIM;
use crate::arguments::Arguments;
use crate::clock::Clock;
use crate::naive::Naive;

const HEADS: usize = 8;

/// A problem of one sequence and `HEADS` heads.
pub(crate) struct Case {
    seq_len: usize,
    causal: bool,
}

pub(crate) const CASES: [Case; 5] = [
    Case { seq_len: 512, causal: false },
    Case { seq_len: 512, causal: true },
    Case { seq_len: 1024, causal: true },
    Case { seq_len: 2048, causal: false },
    Case { seq_len: 2048, causal: true },
];

impl Case {
    pub(crate) fn name(&self) -> String {
        format!("forward {} T={}", if self.causal { "causal" } else { "full" }, self.seq_len)
    }

    fn mask(&self) -> Mask {
        if self.causal { Mask::causal() } else { Mask::All }
    }

    /// How many times faster than the naive passes the forward pass should be, at least.
    const fn expected_ratio(&self) -> f64 {
        // Both do the same arithmetic, and only one of them moves scores through memory. Under a causal mask it also
        // leaves out the half of the tiles that the mask empties.
        if self.causal { 2.0 } else { 1.0 }
    }

    /// Operations that the result needs: two per product of a kept pair, for q kᵀ and for p v.
    fn operations(&self) -> f64 {
        let t = self.seq_len as f64;
        let pairs = if self.causal { t * (t + 1.0) / 2.0 } else { t * t };
        4.0 * pairs * (HEADS * HEAD_DIM) as f64
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
        println!("f32, batch 1, {HEADS} heads, head_dim {HEAD_DIM}; medians; GFLOP/s count what the mask keeps\n");
        println!(
            "{:<24}{:<11}{:>11}{:>9}{:>11}{:>7}{:>10}{:>8}{:>12}",
            "", "kernel", "forward", "GFLOP/s", "naive", "ratio", "expected", "rounds", "difference"
        );
    });
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [forward, naive] = [self.forward, self.naive].map(|time| time.as_secs_f64());
        let ratio = naive / forward;
        write!(
            f,
            "{:<24}{:<11}{:>8.2} ms{:>9.2}{:>8.2} ms{ratio:>7.2}{:>10}{:>8}{:>12.1e}{}",
            self.name,
            self.kernel.name(),
            forward * 1e3,
            self.operations / forward * 1e-9,
            naive * 1e3,
            format!("> {}", self.expected_ratio),
            self.rounds,
            self.difference,
            if ratio > self.expected_ratio { "" } else { "   slower than expected" },
        )
    }
}

/// Lets both run in turns, after a first run of each that isn't counted.
pub(crate) fn run(
    case: &Case,
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    progress.set_message(case.name());
    let shape = Shape::new(1, HEADS, case.seq_len, HEAD_DIM);
    let len = shape.q_len()?;
    let [q, k, v] = [1, 2, 3].map(|seed| upload(device, &uniform(seed, len)));
    let [o, naive_o] = [(); 2].map(|()| output(device, len));

    let problem = Problem::new(shape).mask(case.mask());
    let plan = AttentionPlan::with_kernel(&Kernels::new(device), &problem, arguments.kernel)?;
    let naive = Naive::new(device, [&q, &k, &v, &naive_o], [HEADS, case.seq_len], case.causal);
    let buffers = AttentionBuffers {
        q: q.slice(..),
        k: k.slice(..),
        v: v.slice(..),
        mask: MaskBuffers::new(),
        o: o.slice(..),
        lse: None,
    };
    let time_forward = || clock.time(|encoder| Ok(plan.encode(encoder, &buffers)?));
    let time_naive = || {
        clock.time(|encoder| {
            naive.encode(encoder);
            Ok(())
        })
    };

    time_forward()?;
    time_naive()?;
    let (least, most, budget) = if arguments.quick { (3, 3, 0.0) } else { (5, 31, 10.0) };
    let (mut forward_times, mut naive_times) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while forward_times.len() < least
        || (forward_times.len() < most && start.elapsed().as_secs_f64() < budget)
    {
        forward_times.push(time_forward()?);
        naive_times.push(time_naive()?);
        progress.set_message(format!("{}, round {}", case.name(), forward_times.len()));
    }

    let attention = Attention::from_device(device, queue);
    let read = |buffer| attention.read_blocking(buffer, len);
    let difference = max_difference(&read(&o)?, &read(&naive_o)?);
    ensure!(difference < 1e-4, "{}: the results differ by {difference}", case.name());
    Ok(Line {
        name: case.name(),
        kernel: plan.kernel(),
        rounds: forward_times.len(),
        forward: median(forward_times),
        naive: median(naive_times),
        expected_ratio: case.expected_ratio(),
        operations: case.operations(),
        difference,
    })
}

/// Numbers in [-1, 1), the same on every run: a multiplicative congruential generator will do for timing.
pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
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

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    // A NaN, which no comparison finds, counts as infinitely wrong.
    let difference =
        |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}
