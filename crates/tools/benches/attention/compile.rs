//! How long kernels take to compile: a first call with an empty cache, less a second one. Some drivers compile when the
//! pipeline is made, some when it first runs; a call has both. And the same with pipelines from disk, as a program's second
//! start has them.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use cpu_time::ProcessTime;
use indicatif::ProgressBar;
use wgpu_attention::kernel::{BackwardKernel, ForwardKernel, KernelOptions};
use wgpu_attention::plan::{BackwardOptions, MaskFormat, PlanOptions, ScoreTensor};
use wgpu_attention::{
    AuxData, BackwardPlan, Inputs, Kernels, Mask, Problem, RunOptions, Session, Shape, Upstream,
};

/// What one may wait for a kernel.
const LIMIT: Duration = Duration::from_secs(2);

/// A call that compiles one or more kernels.
pub(crate) struct Case {
    pub(crate) name: String,
    problem: Problem,
    call: Call,
}

#[derive(Clone, Copy)]
enum Call {
    /// By a given kernel, or by the best.
    Forward(Option<ForwardKernel>),
    /// By a decode kernel, the keys in so many splits.
    Decode(ForwardKernel, usize),
    /// The forward pass goes first, since the weights need its lse; it isn't counted.
    Inspect,
    /// Likewise.
    Backward(BackwardKernel),
    Materialize,
}

const SEQ_LEN: usize = 128;

/// Query heads that share keys in decoding, so that a workgroup has as many rows.
const GROUP: usize = 4;

/// A line of the report.
pub(crate) struct Line {
    name: String,
    kernels: usize,
    time: Duration,
    from_disk: Duration,
}

/// Every kernel that the device doesn't refuse.
pub(crate) fn cases(device: &wgpu::Device) -> Vec<Case> {
    let kernels = Kernels::new(device, &Default::default());
    // Lengths are classed by closed forms; flags need the kernel that makes the tile map; who is alone in a row is
    // found by another one. The timed forward passes have neither of these masks, so nothing is in a driver's memory.
    let lengths = Mask::causal() & Mask::KeyLengths;
    let flags = Mask::causal() & Mask::KeyPadding;
    let alone = flags.clone().self_only_if_alone();
    let problem = |mask: &Mask, head_dim| {
        Problem::new(Shape::new(1, 1, SEQ_LEN, head_dim)).mask(mask.clone())
    };
    let mut cases = Vec::new();
    let mut add = |name: String, call, problem| {
        cases.push(Case { name: format!("compile {name}"), problem, call });
    };
    for kernel in ForwardKernel::ALL {
        // 112 is between the sizes that kernels come in; rows of 1 and of 65 are read component by component.
        for head_dim in [1, 32, 64, 65, 80, 112, 128, 256] {
            let problem = problem(&lengths, head_dim);
            if kernels.wgsl(&problem, &PlanOptions::default().kernel(kernel)).is_ok() {
                add(format!("forward {kernel} D={head_dim}"), Call::Forward(Some(kernel)), problem);
            }
        }
        let problem = problem(&flags, 64);
        if kernels.wgsl(&problem, &PlanOptions::default().kernel(kernel)).is_ok() {
            add(format!("forward {kernel} D=64, tile map"), Call::Forward(Some(kernel)), problem);
        }
    }
    for kernel in ForwardKernel::ALL.into_iter().filter(|kernel| kernel.is_decode()) {
        for head_dim in [64, 112, 128, 256] {
            for splits in [1, 4] {
                let shape = Shape::new(1, GROUP, 1, head_dim).num_kv_heads(1).seq_len_kv(SEQ_LEN);
                let problem = Problem::new(shape).mask(lengths.clone());
                if kernels.wgsl(&problem, &PlanOptions::default().kernel(kernel)).is_ok() {
                    let name = format!("{kernel} step D={head_dim}, splits={splits}");
                    add(name, Call::Decode(kernel, splits), problem);
                }
            }
        }
    }
    for kernel in BackwardKernel::ALL {
        for head_dim in [64, 112, 128, 256] {
            let problem = problem(&lengths, head_dim);
            let options = BackwardOptions::default().kernel(kernel);
            if BackwardPlan::new(&kernels, &problem, &options).is_ok() {
                add(format!("backward {kernel} D={head_dim}"), Call::Backward(kernel), problem);
            }
        }
    }
    add("inspect".to_owned(), Call::Inspect, problem(&lengths, 64));
    add("materialize".to_owned(), Call::Materialize, problem(&lengths, 64));
    add("materialize, rows alone".to_owned(), Call::Materialize, problem(&alone, 64));
    cases
}

pub(crate) fn print_heading(progress: &ProgressBar) {
    progress.suspend(|| {
        println!(
            "\n{:<42}{:>7}{:>9}{:>13}{:>12}",
            "", "kernels", "time", "limit each", "from disk"
        );
    });
}

/// Makes the call twice, with kernels of its own; then again with what these left on disk.
pub(crate) fn run(case: &Case, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Line> {
    let folder = std::env::temp_dir().join(format!("wgpu-attention-bench-{}", std::process::id()));
    let options = KernelOptions::default().cache_dir(folder.clone());
    let measure = || -> Result<(usize, Duration)> {
        let kernels = Kernels::new(device, &options);
        let attention = Session::from_kernels(&kernels, queue);
        if let Call::Inspect | Call::Backward(_) = case.call {
            call(&attention, &case.problem, Call::Forward(None))?;
        }
        let compiled_before = kernels.compiled();
        let first = timed(device, || call(&attention, &case.problem, case.call))?;
        let compiled = kernels.compiled() - compiled_before;
        let second = timed(device, || call(&attention, &case.problem, case.call))?;
        Ok((compiled, first.saturating_sub(second)))
    };
    let (kernels, time) = measure()?;
    let (_, from_disk) = measure()?;
    // The next case shall find nothing; where nothing was written, there's nothing to remove.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(Line { name: case.name.clone(), kernels, time, from_disk })
}

fn call(attention: &Session, problem: &Problem, call: Call) -> Result<()> {
    let data = AuxData::new().key_lengths([100]).key_padding((0..SEQ_LEN).map(|at| at < 100));
    let mut outputs = RunOptions::default();
    match call {
        Call::Materialize => {
            attention.materialize_blocking(problem, &data, MaskFormat::Keep)?;
            return Ok(());
        }
        Call::Forward(kernel) => outputs.kernel = kernel,
        Call::Decode(kernel, splits) => {
            outputs.kernel = Some(kernel);
            outputs.num_splits = Some(splits);
        }
        Call::Inspect => outputs.tensors = vec![ScoreTensor::Weights],
        Call::Backward(_) => {}
    }
    let shape = problem.shape();
    let [q, k] = [shape.q_len()?, shape.k_len()?].map(|elements| vec![0.5; elements]);
    let inputs = Inputs::new(&q, &k, &k).aux(&data);
    if let Call::Backward(kernel) = call {
        let options = BackwardOptions::default().kernel(kernel);
        attention.gradients_blocking(problem, &inputs, &Upstream::new(&q), &options)?;
        return Ok(());
    }
    attention.run_blocking(problem, &inputs, &outputs)?;
    Ok(())
}

/// How long one waits; on a CPU adapter the process's CPU time, which is the same where nothing else runs.
fn timed(device: &wgpu::Device, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (start, cpu_start) = (Instant::now(), ProcessTime::try_now()?);
    work()?;
    Ok(match device.adapter_info().device_type {
        wgpu::DeviceType::Cpu => cpu_start.try_elapsed()?,
        _ => start.elapsed(),
    })
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kernels, time, from_disk } = self;
        let verdict = if *time < LIMIT * *kernels as u32 { "" } else { "   slower than expected" };
        write!(
            f,
            "{name:<42}{kernels:>7}{:>7.2} s{:>11} s{:>10.2} s{verdict}",
            time.as_secs_f64(),
            LIMIT.as_secs(),
            from_disk.as_secs_f64()
        )
    }
}
