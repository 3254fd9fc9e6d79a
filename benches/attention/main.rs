//! The forward pass against naive attention in three passes, under sparse masks against none, and how long each kernel
//! takes to compile.
//!
//! Contenders run in turns (A B A B …), so that whatever else the machine does meets both; what is compared are medians.
//! Results are compared with each other, too.

mod arguments;
mod clock;
mod compile;
mod forward;
mod naive;
mod sparse;

use anyhow::{Context, Result};
use arguments::Arguments;
use clock::Clock;
use indicatif::{ProgressBar, ProgressStyle};

/// Of all forward cases; the naive kernels are written for it.
const HEAD_DIM: usize = 64;

fn main() -> Result<()> {
    let Some(arguments) = Arguments::parse()? else {
        return Ok(());
    };
    forget_compiled_kernels();
    let (device, queue) = pollster::block_on(open_best_device())?;
    let compilations = compile::cases(&device);
    let forward_cases: Vec<_> =
        forward::CASES.iter().filter(|case| arguments.wants(&case.name())).collect();
    let sparse_cases: Vec<_> =
        sparse::cases().into_iter().filter(|case| arguments.wants(&case.name())).collect();
    let compilations: Vec<_> =
        compilations.into_iter().filter(|case| arguments.wants(&case.name)).collect();
    if arguments.list {
        forward_cases.iter().for_each(|case| println!("{}", case.name()));
        sparse_cases.iter().for_each(|case| println!("{}", case.name()));
        compilations.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }

    let clock = Clock::new(&device, &queue);
    println!("device: {}", device.adapter_info().name);
    println!("times:  {}\n", clock.name());
    let progress = progress_bar(forward_cases.len() + sparse_cases.len() + compilations.len());
    if !forward_cases.is_empty() {
        forward::print_heading(&progress);
    }
    for case in forward_cases {
        let result = forward::run(case, &device, &queue, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if !sparse_cases.is_empty() {
        sparse::print_heading(&progress);
    }
    for case in sparse_cases {
        let result = sparse::run(&case, &device, &clock, &arguments, &progress)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    if !compilations.is_empty() {
        compile::print_heading(&progress);
    }
    for case in compilations {
        progress.set_message(case.name.clone());
        let result = compile::run(&case, &device, &queue)?;
        progress.suspend(|| println!("{result}"));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// Keeps drivers from taking kernels out of a cache on disk instead of compiling them.
fn forget_compiled_kernels() {
    for (variable, value) in
        [("MESA_SHADER_CACHE_DISABLE", "true"), ("__GL_SHADER_DISK_CACHE", "0")]
    {
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var(variable, value) };
    }
}

async fn open_best_device() -> Result<(wgpu::Device, wgpu::Queue)> {
    let adapters = wgpu_attention::adapters().await;
    let adapter = adapters.first().context("no GPU adapter was found")?;
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    Ok(adapter.request_device(&descriptor).await?)
}

fn progress_bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    ProgressBar::new(steps as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
