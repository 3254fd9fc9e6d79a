//! The forward pass against naive attention in three passes, the backward pass against the forward pass, sparse masks
//! against none, growing sequences, the steps of a generation loop against the device's roofline, how long
//! each kernel takes to compile, and what a program waits for at its first and second start.
//!
//! Contenders run in turns, so that whatever else the machine does meets both; what is compared are medians of the time
//! that the device worked: CPU time on a CPU adapter. Results are compared with each other, too.

mod arguments;
mod backward;
mod compile;
mod forward;
mod growth;
mod inference;
mod naive;
mod roofline;
mod scaling;
mod sparse;
mod start;

use anyhow::Result;
use arguments::Arguments;
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_attention::Session;
use wgpu_attention_tools::measure::Clock;

/// Of all forward cases; the naive kernels are written for it.
const HEAD_DIM: usize = 64;

fn main() -> Result<()> {
    let Some(arguments) = Arguments::parse()? else {
        return Ok(());
    };
    if let Some(folder) = &arguments.start {
        return start::once(folder.as_deref());
    }
    forget_compiled_kernels();
    let attention = Session::open_blocking(&Default::default())?;
    let device = attention.device();
    let forward_cases: Vec<_> =
        forward::CASES.iter().filter(|case| arguments.wants(&case.name())).collect();
    let backward_cases: Vec<_> =
        backward::CASES.iter().filter(|case| arguments.wants(&case.name())).collect();
    let sparse_cases: Vec<_> =
        sparse::cases().into_iter().filter(|case| arguments.wants(&case.name())).collect();
    let scaling_cases: Vec<_> =
        scaling::CASES.into_iter().filter(|case| arguments.wants(&case.name())).collect();
    let inference_cases: Vec<_> =
        inference::cases().into_iter().filter(|case| arguments.wants(&case.name())).collect();
    let wants_growth = arguments.wants(growth::NAME);
    let wants_start = arguments.wants(start::NAME);
    let compilations: Vec<_> =
        compile::cases(device).into_iter().filter(|case| arguments.wants(&case.name)).collect();
    if arguments.list {
        forward_cases.iter().for_each(|case| println!("{}", case.name()));
        backward_cases.iter().for_each(|case| println!("{}", case.name()));
        sparse_cases.iter().for_each(|case| println!("{}", case.name()));
        scaling_cases.iter().for_each(|case| println!("{}", case.name()));
        inference_cases.iter().for_each(|case| println!("{}", case.name()));
        if wants_growth {
            println!("{}", growth::NAME);
        }
        compilations.iter().for_each(|case| println!("{}", case.name));
        if wants_start {
            println!("{}", start::NAME);
        }
        return Ok(());
    }

    let clock = Clock::new(device, attention.queue())?;
    println!("device: {}", device.adapter_info().name);
    println!("times:  {}\n", times(device, &clock));
    let steps = forward_cases.len()
        + backward_cases.len()
        + sparse_cases.len()
        + scaling_cases.len()
        + inference_cases.len()
        + usize::from(wants_growth)
        + compilations.len()
        + usize::from(wants_start);
    let progress = progress_bar(steps);
    if !forward_cases.is_empty() {
        forward::print_heading(&progress);
    }
    for case in forward_cases {
        let result = forward::run(case, &attention, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if !backward_cases.is_empty() {
        backward::print_heading(&progress);
    }
    for case in backward_cases {
        let result = backward::run(case, &attention, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if !sparse_cases.is_empty() {
        sparse::print_heading(&progress);
    }
    for case in sparse_cases {
        let result = sparse::run(&case, &attention, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if !scaling_cases.is_empty() {
        progress.suspend(|| println!("\nf32, batch 1, 1 head, head_dim {HEAD_DIM}; medians\n"));
    }
    for case in scaling_cases {
        let result = scaling::run(case, &attention, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}\n"));
        progress.inc(1);
    }
    if !inference_cases.is_empty() {
        inference::print_heading(&progress);
    }
    for case in inference_cases {
        let result = inference::run(&case, device, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if wants_growth {
        let result = growth::run(device, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if !compilations.is_empty() {
        compile::print_heading(&progress);
    }
    for case in compilations {
        progress.set_message(case.name.clone());
        let result = compile::run(&case, device, attention.queue())?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if wants_start {
        let result = start::run(&arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// What the times are.
fn times(device: &wgpu::Device, clock: &Clock) -> &'static str {
    match device.adapter_info().device_type {
        wgpu::DeviceType::Cpu => "the process's CPU time, for the device is a CPU",
        _ => clock.name(),
    }
}

/// What a line ends with.
const fn verdict(as_expected: bool) -> &'static str {
    if as_expected { "" } else { "   slower than expected" }
}

/// Keeps drivers from taking kernels out of a cache on disk instead of compiling them.
fn forget_compiled_kernels() {
    for (variable, value) in
        [("MESA_SHADER_CACHE_DISABLE", "true"), ("__GL_SHADER_DISK_CACHE", "0")]
    {
        // SAFETY: no other thread runs yet that could read the environment.
        #[expect(unsafe_code)]
        unsafe {
            std::env::set_var(variable, value)
        };
    }
}

fn progress_bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    ProgressBar::new(steps as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
