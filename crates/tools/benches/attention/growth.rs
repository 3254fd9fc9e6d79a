//! A generation loop of 256 steps: what a step costs as the cache grows.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{AttentionPlan, AuxBuffers, Kernels, KvCache, Mask};
use wgpu_attention_tools::measure::{Clock, uniform};

use crate::arguments::Arguments;
use crate::forward::{output, upload};

pub(crate) const NAME: &str = "decode loop B=8 H=8 D=64";

const HEADS: usize = 8;
const STEPS: usize = 256;
/// Steps that are timed together.
const QUARTER: usize = STEPS / 4;
const ROUNDS: usize = 9;

/// The medians of each quarter, per step.
pub(crate) struct Line {
    steps: [Duration; 4],
    rounds: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.steps.map(|step| step.as_secs_f64() * 1e3);
        let [a, b, c, d] = ms;
        write!(
            f,
            "\n{NAME}, {STEPS} steps of append and attention over a cache that begins empty, {} rounds\n  \
             ms per step at lengths 1 to 64, to 128, to 192, to 256: {a:.3}, {b:.3}, {c:.3}, {d:.3}; \
             64 more keys add {:.3}, {:.3}, {:.3}",
            self.rounds,
            b - a,
            c - b,
            d - c
        )
    }
}

pub(crate) fn run(
    device: &wgpu::Device,
    clock: &Clock,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Line> {
    let kernels = Kernels::new(device, &Default::default());
    let shape = CacheShape::new(8, HEADS, STEPS, 64);
    let append = AppendPlan::new(&kernels, &shape, &NewTokens::new(1))?;
    let problem = shape.problem(HEADS, 1, QuerySequences::Uniform).mask(Mask::causal());
    let attention = AttentionPlan::new(&kernels, &problem, &Default::default())?;
    let len = problem.shape().q_len()?;
    let [q, k, v] = [1, 2, 3].map(|seed| upload(device, &uniform(seed, len)));
    let o = output(device, len);
    let rounds = if arguments.quick { 3 } else { ROUNDS };
    let mut times: [Vec<Duration>; 4] = Default::default();
    // The first round compiles, and isn't counted.
    for round in 0..=rounds {
        progress.set_message(format!("{NAME}, round {round}"));
        let mut cache = KvCache::new(&kernels, &shape)?;
        for quarter in &mut times {
            let time = clock.time(|encoder| {
                for _ in 0..QUARTER {
                    let tokens = AppendBuffers::new(k.slice(..), v.slice(..));
                    append.encode(encoder, &mut cache, &tokens)?;
                    let (q, o, mask) = (q.slice(..), o.slice(..), AuxBuffers::new());
                    attention.encode(encoder, &cache.attention_buffers(&problem, q, mask, o)?)?;
                }
                Ok(())
            })?;
            if round > 0 {
                quarter.push(time.busy / QUARTER as u32);
            }
        }
    }
    let steps = times.map(|mut quarter| {
        quarter.sort();
        quarter[quarter.len() / 2]
    });
    Ok(Line { steps, rounds })
}
