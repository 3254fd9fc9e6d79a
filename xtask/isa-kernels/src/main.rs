//! Compiles the kernels that `cargo xtask isa` reports on.
//!
//! It runs on a driver that prints its compiler's output to standard error (see `xtask/null-gpu`), and says there before
//! each plan what it is.

use anyhow::{Context, Result};
use clap::Parser;
use wgpu_attention::{
    Attention, AttentionPlan, BackwardKernel, BackwardOptions, BackwardPlan, DeviceChoice, Dtype,
    ForwardKernel, Kernels, Mask, Problem, Shape,
};

/// A line of the report: the kernels that a plan compiles, in that order, and how the plan is made.
struct Line {
    kernels: &'static [&'static str],
    plan: fn(&Kernels, &Problem) -> wgpu_attention::Result<()>,
}

/// Everything that is reported on.
const LINES: &[Line] = &[
    Line {
        kernels: &["forward tiled"],
        plan: |kernels, problem| forward(kernels, problem, ForwardKernel::Tiled),
    },
    Line {
        kernels: &["backward terms", "backward rows tiled", "backward columns tiled"],
        plan: |kernels, problem| backward(kernels, problem, BackwardKernel::Tiled),
    },
];

/// The lengths of rows that are compiled for.
const HEAD_DIMS: [usize; 2] = [64, 128];

/// The types that tensors are stored in.
const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::F16];

fn forward(
    kernels: &Kernels,
    problem: &Problem,
    kernel: ForwardKernel,
) -> wgpu_attention::Result<()> {
    AttentionPlan::with_kernel(kernels, problem, Some(kernel)).map(|_| ())
}

fn backward(
    kernels: &Kernels,
    problem: &Problem,
    kernel: BackwardKernel,
) -> wgpu_attention::Result<()> {
    let options = BackwardOptions { kernel: Some(kernel), ..BackwardOptions::default() };
    BackwardPlan::with_options(kernels, problem, &options).map(|_| ())
}

/// Compile kernels on the first device.
#[derive(Parser)]
struct Options {
    /// Only kernels with this in their name.
    filter: Option<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let attention = Attention::open_blocking(&DeviceChoice::Best)?;
    let filter = options.filter.unwrap_or_default();
    for line in LINES.iter().filter(|line| line.kernels.iter().any(|name| name.contains(&filter))) {
        for dtype in DTYPES {
            for head_dim in HEAD_DIMS {
                let shape = Shape::new(1, 8, 1024, head_dim);
                let problem = Problem::new(shape).mask(Mask::causal()).dtypes(dtype);
                eprintln!("### plan {}; {head_dim}; {dtype}", line.kernels.join(" + "));
                // Of its own, so that every plan compiles what it needs.
                let kernels = Kernels::new(attention.kernels().device());
                (line.plan)(&kernels, &problem)
                    .with_context(|| format!("{:?}, head_dim {head_dim}, {dtype}", line.kernels))?;
            }
        }
    }
    eprintln!("### end");
    Ok(())
}
