//! How programs that use this crate begin and end.

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::probe::probed;

/// The exit code of what can't be done on this machine, which is no failure where it is one step of many.
pub const UNAVAILABLE: u8 = 77;

/// What can't be done on this machine, and why: the program ends with [`UNAVAILABLE`].
#[derive(Debug)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unavailable here: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Runs a program's work and prints its error; or, where the program was started to try a driver out, does that instead.
pub fn start(work: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    match probed().unwrap_or_else(work) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            match error.is::<Unavailable>() {
                true => ExitCode::from(UNAVAILABLE),
                false => ExitCode::FAILURE,
            }
        }
    }
}
