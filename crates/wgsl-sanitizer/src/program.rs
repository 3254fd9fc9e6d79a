//! The compact form of a shader: a list of operations on rows of lanes, with jumps.

use naga::Span;

use crate::math::{Kernel1, Kernel2, Kernel3, Scalar};

/// An entry point, ready to be run with one subgroup size.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) ops: Vec<Op>,
    /// Of each operation.
    pub(crate) spans: Vec<Span>,
    pub(crate) functions: Vec<CompiledFunction>,
    pub(crate) rows: u32,
    /// The first operation.
    pub(crate) start: u32,
    /// Rows that hold the same word in all lanes from the start.
    pub(crate) constants: Vec<(u32, u32)>,
    pub(crate) width: u32,
    pub(crate) workgroup_size: [u32; 3],
    pub(crate) buffers: Vec<BufferVariable>,
    pub(crate) shared: Vec<SharedVariable>,
    /// Scalars of all workgroup variables together.
    pub(crate) shared_cells: u32,
    /// What types look like in buffers.
    pub(crate) leaves: Vec<Vec<Leaf>>,
    pub(crate) switches: Vec<Vec<Option<u32>>>,
    pub(crate) builtins: Builtins,
    /// Variables of functions and private ones, for findings.
    pub(crate) locals: Vec<LocalRows>,
    /// Bytes of the smallest scalar in a storage buffer.
    pub(crate) granule: u32,
}

/// A function, once for each set of variables that its pointer arguments point into.
#[derive(Debug, Default)]
pub(crate) struct CompiledFunction {
    pub(crate) start: u32,
    pub(crate) name: String,
    /// Its scalar arguments, for findings: name, row, type.
    pub(crate) arguments: Vec<(String, u32, Scalar)>,
}

/// A variable's rows.
#[derive(Debug)]
pub(crate) struct LocalRows {
    pub(crate) start: u32,
    pub(crate) name: String,
    pub(crate) path: Path,
    pub(crate) count: u32,
}

/// Rows of the built-in values.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Builtins {
    pub(crate) local: u32,
    pub(crate) global: u32,
    pub(crate) workgroup: u32,
    pub(crate) workgroups: u32,
    pub(crate) workgroup_size: u32,
    pub(crate) local_index: u32,
    pub(crate) subgroups: u32,
    pub(crate) subgroup: u32,
    pub(crate) subgroup_size: u32,
    pub(crate) lane: u32,
}

/// A scalar of a type in a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaf {
    pub(crate) offset: u32,
    pub(crate) scalar: Scalar,
}

/// A uniform or storage variable.
#[derive(Debug)]
pub(crate) struct BufferVariable {
    pub(crate) name: String,
    pub(crate) group: u32,
    pub(crate) binding: u32,
    pub(crate) is_immediate: bool,
    pub(crate) is_written: bool,
    /// Bytes that it takes at least.
    pub(crate) min_size: u64,
    pub(crate) path: Path,
}

/// A workgroup variable.
#[derive(Debug)]
pub(crate) struct SharedVariable {
    pub(crate) name: String,
    pub(crate) start: u32,
    pub(crate) count: u32,
    pub(crate) path: Path,
}

/// How a variable's type is put together, to name places in it.
#[derive(Debug, Clone)]
pub(crate) enum Path {
    Scalar(Scalar),
    /// Components, and from one to the next.
    Vector(Scalar, u32),
    /// Elements, and from one to the next.
    Array(Box<Path>, u32),
    /// Names and offsets.
    Struct(Vec<(String, u32, Path)>),
}

impl Path {
    /// What lies at an offset.
    pub(crate) fn describe(&self, name: &str, offset: u32) -> (String, Option<Scalar>) {
        match self {
            Self::Scalar(scalar) => (name.to_owned(), Some(*scalar)),
            Self::Vector(scalar, stride) => {
                let component =
                    ["x", "y", "z", "w"].get((offset / stride) as usize).unwrap_or(&"?");
                (format!("{name}.{component}"), Some(*scalar))
            }
            Self::Array(element, stride) => {
                let name = format!("{name}[{}]", offset / stride);
                element.describe(&name, offset % stride)
            }
            Self::Struct(members) => {
                let found = members.iter().rev().find(|(_, start, _)| *start <= offset);
                match found {
                    Some((member, start, path)) => {
                        path.describe(&format!("{name}.{member}"), offset - start)
                    }
                    None => (name.to_owned(), None),
                }
            }
        }
    }
}

/// Where a pointer points: a fixed offset, and rows that hold what is added to it. A pointer takes three rows: the
/// offset, or [`INVALID`], and then the index and the length that it was beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) root: Root,
    pub(crate) offset: u32,
    pub(crate) rows: Option<u32>,
}

/// The offset of a pointer beyond its array.
pub(crate) const INVALID: u32 = u32::MAX;

/// What a pointer points into. Offsets count rows of a variable of a function or a private one, scalars of a workgroup
/// variable, bytes of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Root {
    /// The first row, and how many.
    Local(u32, u32),
    /// The first cell.
    Shared(u32),
    /// The number of the variable.
    Buffer(u32),
}

/// How long an array is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    Fixed(u32),
    /// By the size of the binding: the array's offset and stride.
    Bound {
        buffer: u32,
        offset: u32,
        stride: u32,
    },
}

/// What to do about values that nothing wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undefined {
    /// Report the read: a scalar, a vector or a matrix.
    Report,
    /// Carry it along: an array or a struct, of which only parts may be used.
    Carry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Subtract,
    And,
    Xor,
    Or,
    Min,
    Max,
    Exchange,
    /// The row of what is compared with.
    CompareExchange(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CoopMatrix {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    pub(crate) scalar: Scalar,
}

impl CoopMatrix {
    pub(crate) fn elements(self) -> u32 {
        self.rows * self.columns
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CoopAccess {
    pub(crate) place: Place,
    pub(crate) stride: u32,
    pub(crate) row_major: bool,
    /// From one element of the pointer's type to the next: scalars of workgroup memory, bytes of a buffer.
    pub(crate) unit: u32,
    /// From one scalar to the next.
    pub(crate) scalar_unit: u32,
    /// The extent of the innermost array that is known: offsets.
    pub(crate) extent: (u32, u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Gather {
    First,
    Broadcast,
    Shuffle,
    Down,
    Up,
    Xor,
    QuadBroadcast,
    QuadSwap(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Map1 {
        kernel: Kernel1,
        at: [u32; 2],
        n: u32,
        float: Option<Scalar>,
    },
    Map2 {
        kernel: Kernel2,
        at: [u32; 3],
        n: u32,
        float: Option<Scalar>,
    },
    Map3 {
        kernel: Kernel3,
        at: [u32; 4],
        n: u32,
        float: Option<Scalar>,
    },
    /// Of all lanes, with the marks of what is undefined if `carry`.
    Copy {
        to: u32,
        from: u32,
        n: u32,
        carry: bool,
    },
    /// Of active lanes, to a variable or a function's result.
    Put {
        to: u32,
        from: u32,
        n: u32,
        carry: bool,
    },
    /// A variable without an initial value.
    Undefine {
        to: u32,
        n: u32,
    },
    /// Reads a variable's rows.
    LoadRows {
        to: u32,
        from: u32,
        n: u32,
        undefined: Undefined,
    },
    Gather {
        to: u32,
        place: Place,
        n: u32,
        undefined: Undefined,
    },
    Scatter {
        place: Place,
        from: u32,
        n: u32,
        carry: bool,
    },
    Index {
        to: u32,
        base: Option<u32>,
        index: u32,
        signed: bool,
        length: Length,
        stride: u32,
    },
    /// Hands a pointer to a function.
    Pointer {
        to: u32,
        place: Place,
    },
    LoadShared {
        to: u32,
        place: Place,
        n: u32,
        undefined: Undefined,
        atomic: bool,
    },
    StoreShared {
        place: Place,
        from: u32,
        n: u32,
        carry: bool,
        atomic: bool,
    },
    LoadBuffer {
        to: u32,
        place: Place,
        leaves: u32,
        undefined: Undefined,
        atomic: bool,
    },
    StoreBuffer {
        place: Place,
        from: u32,
        leaves: u32,
        carry: bool,
        atomic: bool,
    },
    ArrayLength {
        to: u32,
        length: Length,
    },
    /// An element of a value.
    Extract {
        to: u32,
        from: u32,
        index: u32,
        signed: bool,
        length: u32,
        n: u32,
        carry: bool,
    },
    /// A part of an array or a struct is used.
    Defined {
        row: u32,
        n: u32,
    },
    CheckDivision {
        scalar: Scalar,
        a: u32,
        b: u32,
        n: u32,
    },
    CheckShift {
        by: u32,
        n: u32,
        bits: u32,
    },
    Atomic {
        op: AtomicOp,
        place: Place,
        scalar: Scalar,
        value: u32,
        result: Option<u32>,
    },
    Ballot {
        to: u32,
        predicate: Option<u32>,
    },
    Move {
        mode: Gather,
        to: u32,
        from: u32,
        index: u32,
        n: u32,
    },
    Collective {
        op: naga::SubgroupOperation,
        scan: naga::CollectiveOperation,
        scalar: Scalar,
        to: u32,
        from: u32,
        n: u32,
    },
    CoopLoad {
        to: u32,
        matrix: CoopMatrix,
        access: CoopAccess,
    },
    CoopStore {
        from: u32,
        matrix: CoopMatrix,
        access: CoopAccess,
    },
    CoopMultiplyAdd {
        to: u32,
        a: u32,
        b: u32,
        c: u32,
        left: CoopMatrix,
        right: CoopMatrix,
        sum: Scalar,
    },
    Barrier {
        flags: naga::Barrier,
    },
    /// The pointer of a `workgroupUniformLoad`.
    Uniform {
        place: Place,
    },

    If {
        condition: u32,
        otherwise: u32,
    },
    Else {
        end: u32,
    },
    EndIf {
        skip: u32,
    },
    LoopBegin,
    Continuing {
        exit: u32,
    },
    BreakIf {
        condition: u32,
    },
    LoopBack {
        start: u32,
    },
    LoopEnd {
        skip: u32,
    },
    Switch {
        selector: u32,
        cases: u32,
    },
    Case {
        index: u32,
        next: u32,
    },
    CaseEnd,
    SwitchEnd {
        skip: u32,
    },
    /// `depth` frames above the one that is meant.
    Break {
        depth: u32,
    },
    Continue {
        depth: u32,
    },
    Call {
        function: u32,
    },
    Return {
        depth: u32,
    },
    FunctionEnd,
    Jump {
        to: u32,
    },
    Exit,
}
