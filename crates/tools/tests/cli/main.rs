//! The command line, as scripts use it: what it prints and writes, and how it fails.

mod bench;
mod call;
mod errors;
mod mask;
mod places;
mod python;
mod run;
#[cfg(feature = "sanitize")]
mod sanitize;
mod scratch;
mod texts;
