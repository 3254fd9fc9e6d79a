//! Small problems that together run every kernel, compared with the f64 reference, on any device.

mod backward;
mod cache;
mod forward;
mod inside;

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel, KernelOptions};
use wgpu_attention::mask::ParseMaskError;
use wgpu_attention::{Dtype, Error, Kernels, ScoreModifiers, Session};

/// What became of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Computed, and right.
    Right,
    /// The device has no such kernel, with its reason.
    Refused(String),
    /// The device found something, or the result is off, in words.
    Wrong(String),
}

impl From<Result<(), Failure>> for Outcome {
    fn from(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Right,
            Err(Failure::Refused(reason)) => Self::Refused(reason),
            Err(Failure::Wrong(words)) => Self::Wrong(words),
        }
    }
}

enum Failure {
    Refused(String),
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::KernelRefused { reason, .. } => Self::Refused(reason),
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl From<ParseMaskError> for Failure {
    fn from(error: ParseMaskError) -> Self {
        Self::Wrong(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self::Wrong(words)
    }
}

/// A problem, or a few of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it is.
    pub name: &'static str,
    run: fn(&Session) -> Result<(), Failure>,
}

impl Case {
    /// Computes it.
    pub fn run(&self, attention: &Session) -> Outcome {
        (self.run)(attention).into()
    }
}

macro_rules! cases {
    ($($name:literal: $run:expr;)*) => {
        &[$(Case { name: $name, run: $run }),*]
    };
}

/// All problems: sizes off every tile, several heads and batches, rows without a key.
pub const CASES: &[Case] = cases! {
    "forward broadcast": |on| forward::dense(on, ForwardKernel::Broadcast, Dtype::F32);
    "forward broadcast, kept infinity": |on| forward::infinity(on, ForwardKernel::Broadcast, Dtype::F32);
    "forward broadcast, 4,200 keys": |on| forward::segments(on, ForwardKernel::Broadcast, Dtype::F32);
    "forward tiled": |on| forward::dense(on, ForwardKernel::Tiled, Dtype::F32);
    "forward tiled, bf16": |on| forward::dense(on, ForwardKernel::Tiled, Dtype::Bf16);
    "forward tiled, kept infinity": |on| forward::infinity(on, ForwardKernel::Tiled, Dtype::F32);
    "forward tiled, 4,200 keys": |on| forward::segments(on, ForwardKernel::Tiled, Dtype::F32);
    "forward tiled, 520 values": |on| forward::long_rows(on, ForwardKernel::Tiled);
    "forward matrix": |on| forward::dense(on, ForwardKernel::Matrix, Dtype::F16);
    "forward matrix, kept infinity": |on| forward::infinity(on, ForwardKernel::Matrix, Dtype::F16);
    "forward matrix, 4,200 keys": |on| forward::segments(on, ForwardKernel::Matrix, Dtype::F16);
    "forward decode_lanes": |on| forward::dense(on, ForwardKernel::DecodeLanes, Dtype::F16);
    "forward decode_lanes, kept infinity": |on| forward::infinity(on, ForwardKernel::DecodeLanes, Dtype::F16);
    "forward decode": |on| forward::dense(on, ForwardKernel::Decode, Dtype::F32);
    "forward decode, kept infinity": |on| forward::infinity(on, ForwardKernel::Decode, Dtype::F32);
    "forward decode, 520 values": |on| forward::long_rows(on, ForwardKernel::Decode);
    "splits": forward::splits;
    "modifiers": forward::modifiers;
    "masks by bounds": forward::by_bounds;
    "backward broadcast": |on| backward::dense(on, BackwardKernel::Broadcast, Dtype::F32);
    "backward broadcast, kept NaN": |on| backward::nan(on, BackwardKernel::Broadcast, Dtype::F32);
    "backward tiled": |on| backward::dense(on, BackwardKernel::Tiled, Dtype::F32);
    "backward tiled, kept NaN": |on| backward::nan(on, BackwardKernel::Tiled, Dtype::F32);
    "backward tiled, keys of 390": backward::long_rows;
    "backward of blocks": backward::paged;
    "backward matrix": |on| backward::dense(on, BackwardKernel::Matrix, Dtype::F16);
    "backward matrix, kept NaN": |on| backward::nan(on, BackwardKernel::Matrix, Dtype::F16);
    "backward matrix, 4,200 rows": |on| backward::segments(on, BackwardKernel::Matrix, Dtype::F16);
    "backward, modifiers": backward::modifiers;
    "backward, a learned table": backward::learned;
    "append": cache::append;
    "lengths beyond the cache": cache::refused;
    "inspect": inside::inspect;
    "inspect, kept infinity": inside::inspect_infinity;
    "masks": inside::masks;
    "block indices": inside::block_indices;
    "user-defined functions": inside::functions;
};

/// A problem by its name.
pub fn case(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

/// The same device with the tiles of one that has few registers, where long rows are summed up in slices.
fn few_registers(attention: &Session) -> Session {
    let kernels = Kernels::new(attention.device(), &KernelOptions::default().registers(96));
    Session::from_kernels(&kernels, attention.queue())
}

fn all_modifiers() -> ScoreModifiers {
    ScoreModifiers::default().softcap(50.0).bias(true).alibi(true).sinks(true)
}

/// Compares where the truth is finite, by a computation of clean operands; elsewhere the result must be what the truth is, or,
/// where that is NaN or isn't `exact`, not finite.
fn hostile_close(
    name: &str,
    [found, clean]: [&[f32]; 2],
    truth: &[f64],
    exact: bool,
    close: impl Fn(&str, &[f32], &[f32], &[f64]) -> Result<(), String>,
) -> Result<(), String> {
    if truth.iter().all(|x| x.is_finite()) {
        return Err(format!("{name}: nothing hostile reaches it, so that it tests nothing"));
    }
    let (mut found, mut clean, mut truth) = (found.to_vec(), clean.to_vec(), truth.to_vec());
    for (at, truth) in truth.iter_mut().enumerate().filter(|(_, truth)| !truth.is_finite()) {
        let x = found[at];
        if x.is_finite() || exact && !truth.is_nan() && f64::from(x) != *truth {
            return Err(format!("{name}[{at}]: {x} instead of {truth}"));
        }
        (found[at], clean[at], *truth) = (0.0, 0.0, 0.0);
    }
    close(name, &found, &clean, &truth)
}
