//! Everything that can go wrong, as values.

use std::fmt;

/// What went wrong, in words that name the operand, what was expected and what came.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument that doesn't fit the problem.
    #[error("{operand}: expected {expected}, found {found}")]
    Operand {
        /// The argument's name, as the documentation spells it.
        operand: String,
        /// What would have been right.
        expected: String,
        /// What came.
        found: String,
    },

    /// A mask's text that doesn't parse.
    #[error(transparent)]
    ParseMask(#[from] ParseMaskError),

    /// The device allows less than the problem needs.
    #[error("{what} needs {needed}, but the device's {limit} is {available}; {instead}")]
    Limit {
        /// The part of the problem that is too large.
        what: String,
        /// The limit's name in `wgpu::Limits`.
        limit: &'static str,
        /// What is needed, in the limit's unit.
        needed: u64,
        /// What the device allows, in the limit's unit.
        available: u64,
        /// What would do.
        instead: &'static str,
    },

    /// A kernel that was asked for can't serve this problem on this device.
    #[error("kernel `{kernel}` can't be used here: {reason}")]
    KernelRefused {
        /// The kernel's name.
        kernel: String,
        /// Why it was refused.
        reason: String,
    },

    /// No adapter, or none that was asked for.
    #[error("{0}")]
    NoAdapter(String),

    /// The device's memory is exhausted.
    #[error("out of device memory while {during}: {message}")]
    OutOfMemory {
        /// What was being done.
        during: &'static str,
        /// The device's own message.
        message: String,
    },

    /// The device was lost or destroyed; open a new one.
    #[error("the device was lost while {during}: {message}")]
    DeviceLost {
        /// What was being done.
        during: &'static str,
        /// The device's own message.
        message: String,
    },

    /// The device refused a call that this crate believed to be valid.
    #[error("the device refused {during}: {message}")]
    Device {
        /// What was being done.
        during: &'static str,
        /// The device's own message.
        message: String,
    },

    /// A tensor file that can't be read or written.
    #[error("{path}: {message}")]
    File {
        /// The file's path.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An argument that doesn't fit: [`Error::Operand`].
    pub fn operand(
        operand: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::Operand {
            operand: operand.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// A mask's text that doesn't parse, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseMaskError {
    /// The whole text.
    pub text: String,
    /// Where the fault starts: a column, counted in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ParseMaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A long text is shown around the column alone.
        const MOST: usize = 60;
        let start = self.column.saturating_sub(MOST);
        let shown = self.text.chars().skip(start).take(2 * MOST);
        let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(f, "mask, column {}: {}", self.column, self.message)?;
        writeln!(f, "  {shown}")?;
        write!(f, "  {:>width$}", "^", width = self.column - start)
    }
}

impl std::error::Error for ParseMaskError {}
