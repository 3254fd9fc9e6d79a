//! Random problems for as long as one likes: `cargo xtask soak`.

use std::collections::BTreeMap;

use super::caches::check_cache;
use super::check::check;

/// How many calls, unless the environment says so.
const CALLS: u64 = 10_000;
const CALLS_VARIABLE: &str = "WGPU_ATTENTION_SOAK_CALLS";
pub(crate) const SEED_VARIABLE: &str = "WGPU_ATTENTION_SOAK_SEED";

/// What the environment says, or as many as usual from another seed each time.
pub(crate) fn calls_and_seed() -> [u64; 2] {
    let [calls, seed] = [CALLS_VARIABLE, SEED_VARIABLE].map(number);
    [calls.unwrap_or(CALLS), seed.unwrap_or_else(rand_seed)]
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}

/// Another one each time.
fn rand_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_micros() as u64
}

/// Problems of everything together, each with kernels of its own: a hundredth as many; every third over a cache.
#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn soak() {
    let check = |seed: u64| if seed.is_multiple_of(3) { check_cache(seed) } else { check(seed) };
    let [calls, seed] = calls_and_seed();
    let count = calls.div_ceil(100);
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
