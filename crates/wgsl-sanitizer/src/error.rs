//! What keeps a shader from being run.

use std::time::Duration;

/// Why a shader can't be run, or wasn't run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text isn't WGSL.
    #[error("the text isn't WGSL as naga 30 reads it:\n{0}")]
    Parse(String),
    /// The module isn't valid.
    #[error("the module isn't valid:\n{0}")]
    Invalid(String),
    /// There is no compute entry point of this name.
    #[error("there is no compute entry point `{name}`; there are: {}", available.join(", "))]
    EntryPoint {
        /// What was asked for.
        name: String,
        /// What there is.
        available: Vec<String>,
    },
    /// An override constant without a value, or a value without a constant.
    #[error("override constant `{name}`: {problem}")]
    Override {
        /// Its name or number.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The shader uses something that isn't executed here.
    #[error("{what} isn't supported{}", at.map(|line| format!(" (line {line})")).unwrap_or_default())]
    Unsupported {
        /// Its name.
        what: String,
        /// The line of the shader's text.
        at: Option<u32>,
    },
    /// A binding is missing, too small, or one too many.
    #[error("@group({group}) @binding({binding}): {problem}")]
    Binding {
        /// The bind group.
        group: u32,
        /// The binding.
        binding: u32,
        /// What is wrong.
        problem: String,
    },
    /// An option out of its range.
    #[error("{name}: expected {expected}, got {got}")]
    Option {
        /// The option's name.
        name: &'static str,
        /// What is possible.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The dispatch took longer than [`Options::time_limit`](crate::Options::time_limit).
    #[error(
        "the dispatch wasn't done after {limit:?}: an endless loop, or a time limit that is too short"
    )]
    TimeLimit {
        /// The limit.
        limit: Duration,
    },
    /// The dispatch executed more operations than [`Options::operation_limit`](crate::Options::operation_limit).
    #[error(
        "the dispatch wasn't done after {limit} operations: an endless loop, or a limit that is too low"
    )]
    OperationLimit {
        /// The limit.
        limit: u64,
    },
}
