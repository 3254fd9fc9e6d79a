//! Random calls one after another, each against the f64 reference, and memory that stays as it is: `cargo xtask soak`.

mod call;
mod pool;

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};

use crate::fixture::ATTENTION;
use crate::random::{check, check_cache};
use call::Made;

/// How many calls, unless the environment says so.
const CALLS: u64 = 10_000;
const CALLS_VARIABLE: &str = "WGPU_ATTENTION_SOAK_CALLS";
const SEED_VARIABLE: &str = "WGPU_ATTENTION_SOAK_SEED";

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

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn soak() {
    let calls = number(CALLS_VARIABLE).unwrap_or(CALLS);
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand_seed);
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

/// Problems of everything together, each with kernels of its own: a hundredth as many; every third over a cache.
#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn problems() {
    let check = |seed: u64| if seed.is_multiple_of(3) { check_cache(seed) } else { check(seed) };
    let count = number(CALLS_VARIABLE).unwrap_or(CALLS).div_ceil(100);
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand_seed);
    println!("{count} problems from seed {seed} ({SEED_VARIABLE} sets it)");
    let mut wrong = Vec::new();
    let (mut kernels, mut refused) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
    for at in 0..count {
        let seed = seed.wrapping_add(at);
        match std::panic::catch_unwind(|| check(seed)) {
            Ok(outcome) => {
                outcome
                    .kernels
                    .into_iter()
                    .for_each(|kernel| *kernels.entry(kernel).or_default() += 1);
                outcome.refused.into_iter().for_each(|why| *refused.entry(why).or_default() += 1);
            }
            Err(_) => {
                println!("seed {seed} FAILED");
                wrong.push(seed);
            }
        }
        if (at + 1) % 20 == 0 {
            println!("{} of {count}", at + 1);
        }
    }
    println!("{count} problems, by {kernels:?}; refused before: {refused:#?}");
    assert!(wrong.is_empty(), "wrong are those of the seeds {wrong:?}");
}

/// Another one each time.
fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_micros() as u64
}
