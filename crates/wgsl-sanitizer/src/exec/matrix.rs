//! Cooperative matrices: element i lies in lane i % width, row i / width. What lies where is the device's affair, so that
//! nothing may depend on it.

use super::{Dispatch, Memory, Subgroup, lanes};
use crate::finding::FindingKind;
use crate::lanes::H;
use crate::math::Scalar;
use crate::program::{CoopAccess, CoopMatrix, Root};
use crate::race::Means;

impl Subgroup {
    /// Whether all lanes of a whole subgroup are there.
    pub(super) fn is_whole(&self, dispatch: &Dispatch<'_>, memory: &Memory) -> bool {
        let width = self.rows.width as u32;
        let is_whole = self.mask.count_ones() == width;
        if !is_whole {
            let who = self.who(memory, self.mask.trailing_zeros() as usize);
            self.found(dispatch, FindingKind::DivergentMatrix, who, None, || {
                let there = self.mask.count_ones();
                (
                    String::new(),
                    0,
                    format!("{there} of {width} invocations of the subgroup are there"),
                )
            });
        }
        is_whole
    }

    fn element(&self, row: u32, index: u32) -> u32 {
        let width = self.rows.width as u32;
        self.rows.get(row + index / width, (index % width) as usize)
    }

    fn set_element(&self, row: u32, index: u32, word: u32) {
        let width = self.rows.width as u32;
        self.rows.set(row + index / width, (index % width) as usize, word);
    }

    /// The offsets of a matrix's elements, by index; `None` beyond the array.
    fn elements(
        &self,
        dispatch: &Dispatch<'_>,
        memory: &Memory,
        matrix: CoopMatrix,
        access: CoopAccess,
    ) -> Vec<Option<u32>> {
        let none = vec![None; matrix.elements() as usize];
        let mut first = None;
        for lane in lanes(self.mask) {
            let Some(at) = self.address(dispatch, memory, access.place, lane) else { return none };
            let own = (at, self.rows.get(access.stride, lane));
            if *first.get_or_insert(own) != own {
                let who = self.who(memory, lane);
                self.found(dispatch, FindingKind::NotUniform, who, None, || {
                    let (name, _) = dispatch.describe(access.place.root, at);
                    (name, u64::from(at), "another lane has another address or stride".into())
                });
                return none;
            }
        }
        let Some((base, stride)) = first else { return none };
        let (start, end) = access.extent;
        let end = match access.place.root {
            Root::Buffer(number) => dispatch.buffers[number as usize].size.min(u64::from(end)),
            _ => u64::from(end),
        };
        (0..matrix.elements())
            .map(|index| {
                let (row, column) = (index / matrix.columns, index % matrix.columns);
                let (major, minor) = if access.row_major { (row, column) } else { (column, row) };
                let at = u64::from(base)
                    + u64::from(major) * u64::from(stride) * u64::from(access.unit)
                    + u64::from(minor * access.scalar_unit);
                let is_within = at >= u64::from(start) && at + u64::from(access.scalar_unit) <= end;
                if !is_within {
                    let who = self.who(memory, (index % self.rows.width as u32) as usize);
                    self.found(dispatch, FindingKind::OutOfBounds, who, None, || {
                        let (name, _) = dispatch.describe(access.place.root, base);
                        let words = format!(
                            "element ({row}, {column}) of the matrix lies at {at}, the array ends at {end}"
                        );
                        (name, at, words)
                    });
                }
                is_within.then_some(at as u32)
            })
            .collect()
    }

    pub(super) fn coop_load(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        to: u32,
        matrix: CoopMatrix,
        access: CoopAccess,
    ) {
        let width = self.rows.width as u32;
        let at = self.elements(dispatch, memory, matrix, access);
        for (index, at) in (0u32..).zip(at) {
            let lane = (index % width) as usize;
            let word = match (access.place.root, at) {
                (Root::Shared(start), Some(at)) => {
                    let cell = (start + at) as usize;
                    if !memory.defined[cell] {
                        self.report_undefined_cell(dispatch, memory, cell, lane);
                    }
                    self.read_cell(dispatch, memory, cell, lane, Means::Plain)
                }
                (root @ Root::Buffer(number), Some(at)) => {
                    let bound = &dispatch.buffers[number as usize];
                    let mut shadow = bound.lock();
                    let slice = shadow.as_mut().map(|shadow| &mut shadow[..]);
                    let (value, is_defined) = self.read_leaf(
                        dispatch,
                        memory,
                        (root, bound),
                        slice,
                        at,
                        matrix.scalar,
                        lane,
                        Means::Plain,
                    );
                    if !is_defined {
                        self.report_undefined_leaf(dispatch, memory, root, at, lane);
                    }
                    value as u32
                }
                _ => 0,
            };
            self.set_element(to, index, word);
        }
    }

    pub(super) fn coop_store(
        &mut self,
        dispatch: &Dispatch<'_>,
        memory: &mut Memory,
        from: u32,
        matrix: CoopMatrix,
        access: CoopAccess,
    ) {
        let width = self.rows.width as u32;
        let at = self.elements(dispatch, memory, matrix, access);
        for (index, at) in (0u32..).zip(at) {
            let Some(at) = at else { continue };
            let lane = (index % width) as usize;
            let word = self.element(from, index);
            match access.place.root {
                Root::Shared(start) => {
                    let cell = (start + at) as usize;
                    self.write_cell(dispatch, memory, cell, lane, Means::Plain, word, true);
                }
                root @ Root::Buffer(number) => {
                    let bound = &dispatch.buffers[number as usize];
                    let mut shadow = bound.lock();
                    let slice = shadow.as_mut().map(|shadow| &mut shadow[..]);
                    let how = (lane, Means::Plain, true);
                    let of = (root, bound);
                    let value = u64::from(word);
                    self.write_leaf(dispatch, memory, of, slice, at, matrix.scalar, value, how);
                }
                Root::Local(..) => {}
            }
        }
    }

    /// c + a b: products of a's and b's elements, added in f32 one after the other, rounded once where the sum's type is
    /// f16.
    pub(super) fn coop_multiply_add(
        &self,
        to: u32,
        [a, b, c]: [u32; 3],
        left: CoopMatrix,
        right: CoopMatrix,
        sum: Scalar,
    ) {
        let number = |word: u32, scalar: Scalar| match scalar {
            Scalar::F16 => half::f16::from_bits(word as u16).to_f32(),
            _ => f32::from_bits(word),
        };
        let values = |row: u32, matrix: CoopMatrix| -> Vec<f32> {
            let words = (0..matrix.elements()).map(|index| self.element(row, index));
            words.map(|word| number(word, matrix.scalar)).collect()
        };
        let sums = CoopMatrix { rows: left.rows, columns: right.columns, scalar: sum };
        let (a, b, mut c) = (values(a, left), values(b, right), values(c, sums));
        let (inner, columns) = (left.columns as usize, right.columns as usize);
        for (index, c) in c.iter_mut().enumerate() {
            let (row, column) = (index / columns, index % columns);
            for k in 0..inner {
                *c = a[row * inner + k].mul_add(b[k * columns + column], *c);
            }
        }
        for (index, c) in (0u32..).zip(c) {
            let word = match sum {
                Scalar::F16 => u32::from(H(half::f16::from_f32(c)).0.to_bits()),
                _ => c.to_bits(),
            };
            self.set_element(to, index, word);
        }
    }
}
