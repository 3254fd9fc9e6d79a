//! Lines of machine code: what instructions do, and where they jump.

use std::ops::{AddAssign, Mul};

/// What instructions do, per invocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Instructions that are issued. A repeated one counts as often; one that only waits, not at all.
    pub(super) instructions: u64,
    /// Multiplications of floats, alone or with an addition.
    pub(super) products: u64,
    /// The same in products of matrices.
    pub(super) matrix_products: u64,
    /// Reads of storage buffers, and their bytes.
    pub(super) loads: u64,
    pub(super) load_bytes: u64,
    pub(super) exponentials: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.products += other.products;
        self.matrix_products += other.matrix_products;
        self.loads += other.loads;
        self.load_bytes += other.load_bytes;
        self.exponentials += other.exponentials;
    }
}

impl Mul<u64> for Counts {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self {
            instructions: self.instructions * times,
            products: self.products * times,
            matrix_products: self.matrix_products * times,
            loads: self.loads * times,
            load_bytes: self.load_bytes * times,
            exponentials: self.exponentials * times,
        }
    }
}

impl Counts {
    pub(super) const NONE: Self = Self {
        instructions: 0,
        products: 0,
        matrix_products: 0,
        loads: 0,
        load_bytes: 0,
        exponentials: 0,
    };

    /// One that does nothing that is counted apart.
    pub(super) const ONE: Self = Self { instructions: 1, ..Self::NONE };

    pub(super) const fn all_products(&self) -> u64 {
        self.products + self.matrix_products
    }

    pub(super) const fn matrix(matrix_products: u64) -> Self {
        Self { matrix_products, ..Self::ONE }
    }

    pub(super) const fn product(products: u64) -> Self {
        Self { products, ..Self::ONE }
    }

    pub(super) const fn load(load_bytes: u64) -> Self {
        Self { loads: 1, load_bytes, ..Self::ONE }
    }

    pub(super) const fn exponential() -> Self {
        Self { exponentials: 1, ..Self::ONE }
    }
}

/// A line of machine code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// The place of the next instruction.
    Label(String),
    Instruction(Counts),
    /// It goes on at one of these places; or, if it `falls`, with the next instruction.
    Jump {
        to: Vec<String>,
        falls: bool,
    },
}

/// The lines of a kernel, as they are read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    /// Whether what comes next is code.
    pub(super) is_open: bool,
}

impl Lines {
    /// Begins anew.
    pub(super) fn open(&mut self) {
        self.lines.clear();
        self.is_open = true;
    }

    pub(super) fn label(&mut self, name: &str) {
        self.lines.push(Line::Label(name.to_owned()));
    }

    pub(super) fn instruction(&mut self, counts: Counts) {
        self.lines.push(Line::Instruction(counts));
    }

    pub(super) fn jump<'a>(&mut self, to: impl IntoIterator<Item = &'a str>, falls: bool) {
        let to = to.into_iter().map(str::to_owned).collect();
        self.lines.push(Line::Jump { to, falls });
    }
}
