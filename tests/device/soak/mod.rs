//! Random calls one after another, each against the f64 reference, and memory that stays as it is: `cargo xtask soak`.

mod call;
mod pool;

use indicatif::{ProgressBar, ProgressStyle};

use crate::fixture::ATTENTION;
use crate::random::soak::{SEED_VARIABLE, calls_and_seed};
use call::Made;

/// The process's memory in MiB, where the system tells, and the driver's allocations that are alive.
fn memory() -> (Option<f64>, Option<usize>) {
    let resident = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
    });
    // What calls are done with goes when the device is asked.
    ATTENTION.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let report = ATTENTION.device().generate_allocator_report();
    (resident, report.map(|report| report.allocations.len()))
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn soak() {
    let [calls, seed] = calls_and_seed();
    println!(
        "{calls} calls of {} structures from seed {seed} ({SEED_VARIABLE} sets it)",
        pool::POOL.len()
    );
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta}").unwrap();
    let bar = ProgressBar::new(calls).with_style(style);
    // By then the pools' pipelines are compiled.
    let early = calls.div_ceil(2);
    let mut before = None;
    let mut made = Made::default();
    for at in 0..calls {
        made += call::make(seed.wrapping_add(at));
        if at + 1 == early {
            before = Some((memory(), ATTENTION.kernels().compiled()));
        }
        bar.inc(1);
        if bar.is_hidden() && (at + 1) % 100 == 0 {
            println!("{} of {calls}", at + 1);
        }
    }
    bar.finish_and_clear();
    let (after, compiled) = (memory(), ATTENTION.kernels().compiled());
    let (before, compiled_before) = before.expect("half of the calls come before the others");
    let mib = |x: Option<f64>| x.map_or("?".to_owned(), |x| format!("{x:.0} MiB"));
    let live = |x: Option<usize>| x.map_or("?".to_owned(), |x| x.to_string());
    println!(
        "{calls} calls right, {} of them decode's, {} with gradients; {compiled} pipelines, {compiled_before} of them after \
         half of the calls",
        made.decode, made.gradients
    );
    println!("resident memory: {} after half of them, {} at the end", mib(before.0), mib(after.0));
    println!("the driver's live allocations: {} and {}", live(before.1), live(after.1));
    assert_eq!(before.1, after.1, "calls leave allocations behind");
}
