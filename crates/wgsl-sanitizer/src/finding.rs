//! What is wrong with a shader, and where.

use std::fmt;

/// What kind of fault was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// Two invocations access one location, one of them writes, not both atomically, and no barrier orders them.
    Race,
    /// A read of memory that nothing wrote.
    Uninitialized,
    /// An index beyond its array, or an address beyond its binding.
    OutOfBounds,
    /// A barrier that not all invocations of the workgroup or subgroup reach together.
    DivergentBarrier,
    /// An operation on cooperative matrices that not all invocations of the subgroup reach together.
    DivergentMatrix,
    /// A subgroup operation reads from a lane that is inactive or doesn't exist.
    InactiveLane,
    /// An operand that has to be the same for all invocations, and isn't.
    NotUniform,
    /// A write to bytes that the caller protected.
    ForbiddenWrite,
    /// An integer division by zero, or one whose result the type can't hold.
    Division,
    /// A shift by as many bits as the value has, or more.
    Shift,
    /// A note: two atomic accesses of different invocations that no barrier orders, of which one stores, or one loads what the
    /// other changes, so that a value depends on who comes first. Counters and locks do so on purpose.
    AtomicOrder,
    /// A note: NaN made from numbers none of which was NaN or infinite.
    NotANumber,
}

impl FindingKind {
    /// Whether it is only a note: nothing that WGSL leaves undefined.
    pub fn is_note(self) -> bool {
        matches!(self, Self::NotANumber | Self::AtomicOrder)
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Race => "race",
            Self::Uninitialized => "read of uninitialised memory",
            Self::OutOfBounds => "index out of bounds",
            Self::DivergentBarrier => "barrier in divergent flow",
            Self::DivergentMatrix => "matrix operation in divergent flow",
            Self::InactiveLane => "read from an inactive lane",
            Self::NotUniform => "operand that isn't uniform",
            Self::ForbiddenWrite => "write to protected memory",
            Self::Division => "integer division without a result",
            Self::Shift => "shift too far",
            Self::AtomicOrder => "atomic accesses in no order",
            Self::NotANumber => "NaN made from finite numbers",
        })
    }
}

/// A place in the shader's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Location {
    /// The line, from 1; 0 where the module came without its text.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// The line's text.
    pub text: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str("(no text)"),
            line => write!(f, "line {line}:{}: `{}`", self.column, self.text),
        }
    }
}

/// An invocation of the shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Invocation {
    /// Its workgroup.
    pub workgroup: [u32; 3],
    /// Its `local_invocation_index`.
    pub local: u32,
    /// Its subgroup.
    pub subgroup: u32,
    /// Its lane of the subgroup.
    pub lane: u32,
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workgroup: [x, y, z], local, subgroup, lane } = self;
        write!(
            f,
            "invocation {local} (subgroup {subgroup}, lane {lane}) of workgroup ({x}, {y}, {z})"
        )
    }
}

/// A call of a function that hadn't returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function's name.
    pub function: String,
    /// Its scalar arguments: names and values, as the invocation passed them.
    pub arguments: Vec<(String, String)>,
    /// Where it is called.
    pub at: Location,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |(name, value): &(String, String)| format!("{name}: {value}");
        let arguments: Vec<_> = self.arguments.iter().map(value).collect();
        write!(f, "in {}({}), called at {}", self.function, arguments.join(", "), self.at)
    }
}

/// The other of two accesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherAccess {
    /// Where.
    pub at: Location,
    /// By whom.
    pub invocation: Invocation,
    /// Whether it wrote.
    pub is_write: bool,
}

/// A fault of a shader: the first time that it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its kind.
    pub kind: FindingKind,
    /// Where it was seen.
    pub at: Location,
    /// Who did it.
    pub invocation: Invocation,
    /// The calls that lead there from the entry point, the last one first.
    pub calls: Vec<Call>,
    /// The variable and the place in it, as WGSL writes it; empty where there is none.
    pub place: String,
    /// The address: bytes from the binding's start, or scalars from the variable's start; 0 where there is none.
    pub address: u64,
    /// In words: values, indices, lengths.
    pub detail: String,
    /// The access that came before, where there are two.
    pub other: Option<OtherAccess>,
    /// How often it was seen.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if !self.place.is_empty() {
            write!(f, " at `{}`", self.place)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        write!(f, "\n  {}", self.at)?;
        for call in &self.calls {
            write!(f, "\n  {call}")?;
        }
        write!(f, "\n  by {}", self.invocation)?;
        if let Some(other) = &self.other {
            let what = if other.is_write { "written" } else { "read" };
            write!(f, "\n  {what} before at {}\n  by {}", other.at, other.invocation)?;
        }
        if self.count > 1 {
            write!(f, "\n  {} times", self.count)?;
        }
        Ok(())
    }
}

/// What a dispatch did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// What was found, notes too, by line.
    pub findings: Vec<Finding>,
    /// How many operations were executed, counted per lane of every subgroup.
    pub operations: u64,
    /// The lines of the text that some invocation executed, in order.
    pub lines: Vec<u32>,
}

impl Report {
    /// Findings that aren't notes.
    pub fn faults(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.kind.is_note())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            return f.write_str("nothing found");
        }
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}
