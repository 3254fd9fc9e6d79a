//! What is tried.

mod backward;
mod cache;
mod faults;
mod forward;
mod masks;
mod playground;
mod sequences;

use std::pin::Pin;

use wgpu_attention::mask::ParseMaskError;
use wgpu_attention::{Error, Session};

/// Something to try.
pub(crate) struct Case<'a> {
    pub(crate) name: String,
    /// The kernels that it proves, by the names of `wgpu-attention kernels`.
    pub(crate) kernels: Vec<String>,
    pub(crate) check: Pin<Box<dyn Future<Output = Outcome> + 'a>>,
}

/// How many tensors were compared and right.
pub(crate) type Outcome = Result<usize, Failure>;

pub(crate) enum Failure {
    Wrong(String),
    /// The kernel isn't for this device, for this reason.
    Refused(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Wrong(message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::KernelRefused { reason, .. } => Self::Refused(reason),
            error => Self::Wrong(error.to_string()),
        }
    }
}

impl From<ParseMaskError> for Failure {
    fn from(error: ParseMaskError) -> Self {
        Error::from(error).into()
    }
}

/// Every case, none of them begun.
pub(crate) fn all(attention: &Session) -> Vec<Case<'_>> {
    let mut cases = forward::cases(attention);
    cases.extend(masks::cases(attention));
    cases.extend(backward::cases(attention));
    cases.extend(cache::cases(attention));
    cases.extend(sequences::cases(attention));
    cases.extend(playground::cases(attention));
    cases.extend(faults::cases(attention));
    cases
}

fn case<'a>(
    name: impl Into<String>,
    kernels: &[&str],
    check: impl Future<Output = Outcome> + 'a,
) -> Case<'a> {
    let kernels = kernels.iter().map(|&kernel| kernel.to_owned()).collect();
    Case { name: name.into(), kernels, check: Box::pin(check) }
}

/// An outcome of what isn't a comparison of tensors.
fn ensure(right: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
    if right { Ok(()) } else { Err(Failure::Wrong(message())) }
}

/// Two results are the same, bit for bit.
fn same_bits(what: &str, found: &[f32], expected: &[f32]) -> Result<(), Failure> {
    let differs = found.iter().zip(expected).position(|(x, y)| x.to_bits() != y.to_bits());
    ensure(found.len() == expected.len() && differs.is_none(), || {
        format!("{what}: other bits, first at {differs:?}")
    })
}
