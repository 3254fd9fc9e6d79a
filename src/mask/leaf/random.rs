//! Leaves and data at random, for tests and fuzzing.

use std::ops::RangeInclusive;

/// Numbers at random from whatever source a test has.
#[doc(hidden)]
pub struct Random<'a> {
    draw: &'a mut dyn FnMut(RangeInclusive<i64>) -> i64,
    surplus: usize,
}

impl<'a> Random<'a> {
    /// `draw` returns a number of the range, or, where calls are to be refused, another one.
    pub fn new(draw: &'a mut dyn FnMut(RangeInclusive<i64>) -> i64) -> Self {
        Self { draw, surplus: 0 }
    }

    /// The same with tensors that have so many elements too many.
    pub fn surplus(self, surplus: usize) -> Self {
        Self { surplus, ..self }
    }

    pub(crate) fn int(&mut self, range: RangeInclusive<i64>) -> i64 {
        (self.draw)(range)
    }

    /// An index below `len`, which isn't 0.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.int(0..=len as i64 - 1).rem_euclid(len as i64) as usize
    }

    /// One of the sizes that a dimension may have.
    pub(crate) fn one_of<const N: usize>(&mut self, sizes: [usize; N]) -> usize {
        sizes[self.index(N)]
    }

    /// An element of a tensor from `least` to `most`.
    pub(crate) fn element(&mut self, least: i64, most: i64) -> i32 {
        // Of what leaves the range, the lowest 32 bits.
        self.int(least..=most.max(least)) as i32
    }

    /// The elements of a tensor, from 0 to `most`.
    pub(crate) fn ints(&mut self, len: usize, most: usize) -> Vec<i32> {
        (0..len + self.surplus).map(|_| self.element(0, most as i64)).collect()
    }

    /// The elements of a tensor, each with a range that depends on its place.
    pub(crate) fn ints_of(&mut self, len: usize, range: impl Fn(usize) -> (i64, i64)) -> Vec<i32> {
        (0..len + self.surplus)
            .map(|at| {
                let (least, most) = range(at);
                self.element(least, most)
            })
            .collect()
    }

    /// Flags, three of four set.
    pub(crate) fn flags(&mut self, len: usize) -> Vec<bool> {
        (0..len + self.surplus).map(|_| self.index(4) != 0).collect()
    }

    /// Ids that mostly stay the same from one position to the next, for each row anew, from `least` on.
    pub(crate) fn runs(&mut self, rows: usize, len: usize, least: i64) -> Vec<i32> {
        let mut id = least;
        self.ints_of(rows * len, |_| (0, 5))
            .into_iter()
            .enumerate()
            .map(|(at, drawn)| {
                let first = len > 0 && at % len == 0;
                id = match drawn {
                    _ if first => least,
                    0 => id + 1,
                    1..=5 => id,
                    other => other.into(),
                };
                id as i32
            })
            .collect()
    }
}

impl std::fmt::Debug for Random<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random").field("surplus", &self.surplus).finish_non_exhaustive()
    }
}
