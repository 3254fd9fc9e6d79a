//! Values of all lanes of a subgroup: a register is a row of 32-bit words, one word per lane.
//!
//! A scalar of up to 32 bits takes one row (f16 and 16-bit integers as their bits, bool as 0 or 1), a scalar of 64 bits
//! takes two, low words first. Vectors, matrices, arrays and structs take the rows of their scalars, one after the other.

use std::cell::Cell;

use half::f16;

/// The registers of one subgroup.
#[derive(Debug)]
pub(crate) struct Rows {
    cells: Vec<Cell<u32>>,
    /// Lanes of a row.
    pub(crate) width: usize,
}

impl Rows {
    pub(crate) fn new(rows: u32, width: usize) -> Self {
        Self { cells: vec![Cell::new(0); rows as usize * width], width }
    }

    pub(crate) fn rows(&self, row: u32, count: usize) -> &[Cell<u32>] {
        let start = row as usize * self.width;
        &self.cells[start..start + count * self.width]
    }

    pub(crate) fn get(&self, row: u32, lane: usize) -> u32 {
        self.cells[row as usize * self.width + lane].get()
    }

    pub(crate) fn set(&self, row: u32, lane: usize, word: u32) {
        self.cells[row as usize * self.width + lane].set(word);
    }

    pub(crate) fn fill(&self, row: u32, word: u32) {
        self.rows(row, 1).iter().for_each(|cell| cell.set(word));
    }

    pub(crate) fn copy(&self, to: u32, from: u32, count: u32) {
        let count = count as usize;
        for (to, from) in self.rows(to, count).iter().zip(self.rows(from, count)) {
            to.set(from.get());
        }
    }

    pub(crate) fn value<T: Lane>(&self, row: u32, lane: usize) -> T {
        T::get(self.rows(row, T::WORDS), lane, self.width)
    }

    pub(crate) fn put<T: Lane>(&self, row: u32, lane: usize, value: T) {
        value.put(self.rows(row, T::WORDS), lane, self.width);
    }

    #[inline(always)]
    pub(crate) fn map1<A: Lane, R: Lane>(&self, d: u32, a: u32, n: u32, f: impl Fn(A) -> R) {
        let w = self.width;
        for c in 0..n {
            let to = self.rows(d + c * R::WORDS as u32, R::WORDS);
            let a = self.rows(a + c * A::WORDS as u32, A::WORDS);
            for lane in 0..w {
                f(A::get(a, lane, w)).put(to, lane, w);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn map2<A: Lane, B: Lane, R: Lane>(
        &self,
        [d, a, b]: [u32; 3],
        n: u32,
        f: impl Fn(A, B) -> R,
    ) {
        let w = self.width;
        for c in 0..n {
            let to = self.rows(d + c * R::WORDS as u32, R::WORDS);
            let a = self.rows(a + c * A::WORDS as u32, A::WORDS);
            let b = self.rows(b + c * B::WORDS as u32, B::WORDS);
            for lane in 0..w {
                f(A::get(a, lane, w), B::get(b, lane, w)).put(to, lane, w);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn map3<A: Lane, R: Lane>(
        &self,
        [d, a, b, c]: [u32; 4],
        n: u32,
        f: impl Fn(A, A, A) -> R,
    ) {
        let w = self.width;
        for i in 0..n {
            let at = i * A::WORDS as u32;
            let to = self.rows(d + i * R::WORDS as u32, R::WORDS);
            let [a, b, c] = [a, b, c].map(|row| self.rows(row + at, A::WORDS));
            for lane in 0..w {
                let value = f(A::get(a, lane, w), A::get(b, lane, w), A::get(c, lane, w));
                value.put(to, lane, w);
            }
        }
    }
}

/// A scalar as it lies in rows.
pub(crate) trait Lane: Copy + 'static {
    /// Rows that it takes.
    const WORDS: usize;
    fn get(rows: &[Cell<u32>], lane: usize, width: usize) -> Self;
    fn put(self, rows: &[Cell<u32>], lane: usize, width: usize);
}

macro_rules! lane_of_one_word {
    ($type:ty, $from:expr, $to:expr) => {
        impl Lane for $type {
            const WORDS: usize = 1;
            #[inline(always)]
            fn get(rows: &[Cell<u32>], lane: usize, _: usize) -> Self {
                $from(rows[lane].get())
            }
            #[inline(always)]
            fn put(self, rows: &[Cell<u32>], lane: usize, _: usize) {
                rows[lane].set($to(self));
            }
        }
    };
}

macro_rules! lane_of_two_words {
    ($type:ty, $from:expr, $to:expr) => {
        impl Lane for $type {
            const WORDS: usize = 2;
            #[inline(always)]
            fn get(rows: &[Cell<u32>], lane: usize, width: usize) -> Self {
                let [low, high] = [rows[lane].get(), rows[width + lane].get()];
                $from(u64::from(low) | u64::from(high) << 32)
            }
            #[inline(always)]
            fn put(self, rows: &[Cell<u32>], lane: usize, width: usize) {
                let word: u64 = $to(self);
                rows[lane].set(word as u32);
                rows[width + lane].set((word >> 32) as u32);
            }
        }
    };
}

/// f16, calculated in f32 and rounded once, which is exact for the basic operations.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct H(pub(crate) f16);

lane_of_one_word!(u32, |word| word, |value| value);
lane_of_one_word!(i32, |word| word as i32, |value| value as u32);
lane_of_one_word!(f32, f32::from_bits, f32::to_bits);
lane_of_one_word!(bool, |word| word != 0, u32::from);
lane_of_one_word!(u16, |word| word as u16, u32::from);
lane_of_one_word!(i16, |word| word as i16, |value: i16| u32::from(value as u16));
lane_of_one_word!(H, |word| H(f16::from_bits(word as u16)), |value: H| u32::from(
    value.0.to_bits()
));
lane_of_two_words!(u64, |word| word, |value| value);
lane_of_two_words!(i64, |word| word as i64, |value| value as u64);
lane_of_two_words!(f64, f64::from_bits, f64::to_bits);

/// Any scalar's value on its way to another type.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wide {
    Int(i128),
    Float(f64),
}

impl Wide {
    /// Truncated and clamped to the type, as WGSL converts; NaN is 0.
    #[inline(always)]
    fn int(self, low: i128, high: i128) -> i128 {
        match self {
            Self::Int(value) => value,
            Self::Float(value) => (value as i128).clamp(low, high),
        }
    }
}

/// Arithmetic on numbers; integers wrap.
pub(crate) trait Num: Lane + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// x / 0 is x where x is an integer.
    fn div(self, other: Self) -> Self;
    /// x % 0 is 0 where x is an integer.
    fn rem(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    fn least(self, other: Self) -> Self;
    fn greatest(self, other: Self) -> Self;
    fn fma(self, b: Self, c: Self) -> Self;
    fn wide(self) -> Wide;
    fn narrow(wide: Wide) -> Self;
}

macro_rules! integer {
    ($type:ty, $abs:expr, $sign:expr) => {
        impl Num for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                if other == 0 { self } else { self.wrapping_div(other) }
            }
            #[inline(always)]
            fn rem(self, other: Self) -> Self {
                if other == 0 { 0 } else { self.wrapping_rem(other) }
            }
            #[inline(always)]
            fn neg(self) -> Self {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $abs(self)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                $sign(self)
            }
            #[inline(always)]
            fn least(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn greatest(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                self.wrapping_mul(b).wrapping_add(c)
            }
            #[inline(always)]
            fn wide(self) -> Wide {
                Wide::Int(i128::from(self))
            }
            #[inline(always)]
            fn narrow(wide: Wide) -> Self {
                wide.int(i128::from(Self::MIN), i128::from(Self::MAX)) as Self
            }
        }
    };
}

integer!(u32, |x| x, |x: u32| u32::from(x > 0));
integer!(u64, |x| x, |x: u64| u64::from(x > 0));
integer!(u16, |x| x, |x: u16| u16::from(x > 0));
integer!(i32, i32::wrapping_abs, i32::signum);
integer!(i64, i64::wrapping_abs, i64::signum);
integer!(i16, i16::wrapping_abs, i16::signum);

macro_rules! float {
    ($type:ty, $ends:expr, $up:expr, $down:expr, $fma:expr, $narrow:expr) => {
        impl Num for $type {
            const ZERO: Self = $ends.0;
            const ONE: Self = $ends.1;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                $down($up(self) + $up(other))
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                $down($up(self) - $up(other))
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                $down($up(self) * $up(other))
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                $down($up(self) / $up(other))
            }
            #[inline(always)]
            fn rem(self, other: Self) -> Self {
                $down($up(self) % $up(other))
            }
            #[inline(always)]
            fn neg(self) -> Self {
                $down(-$up(self))
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $down($up(self).abs())
            }
            #[inline(always)]
            fn sign(self) -> Self {
                let x = $up(self);
                let sign = if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    0.0
                };
                $down(sign)
            }
            #[inline(always)]
            fn least(self, other: Self) -> Self {
                $down($up(self).min($up(other)))
            }
            #[inline(always)]
            fn greatest(self, other: Self) -> Self {
                $down($up(self).max($up(other)))
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                $fma(self, b, c)
            }
            #[inline(always)]
            fn wide(self) -> Wide {
                Wide::Float(f64::from($up(self)))
            }
            #[inline(always)]
            fn narrow(wide: Wide) -> Self {
                $narrow(wide)
            }
        }
    };
}

#[inline(always)]
fn same<T>(x: T) -> T {
    x
}

#[inline(always)]
fn h_down(x: f32) -> H {
    H(f16::from_f32(x))
}

#[inline(always)]
fn h_up(x: H) -> f32 {
    x.0.to_f32()
}

float!(f32, (0.0, 1.0), same::<f32>, same::<f32>, f32::mul_add, |wide| match wide {
    Wide::Int(value) => value as f32,
    Wide::Float(value) => value as f32,
});
float!(f64, (0.0, 1.0), same::<f64>, same::<f64>, f64::mul_add, |wide| match wide {
    Wide::Int(value) => value as f64,
    Wide::Float(value) => value,
});
// Products of f16 are exact in f64, and their sums but for a last bit that no rounding to f16 sees.
float!(
    H,
    (H(f16::ZERO), H(f16::ONE)),
    h_up,
    h_down,
    |a: H, b: H, c: H| H(f16::from_f64(a.0.to_f64().mul_add(b.0.to_f64(), c.0.to_f64()))),
    |wide| match wide {
        Wide::Int(value) => H(f16::from_f64(value as f64)),
        Wide::Float(value) => H(f16::from_f64(value)),
    }
);

/// What integers alone can do.
pub(crate) trait Int: Num {
    const BITS: u32;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn not(self) -> Self;
    fn shl(self, by: u32) -> Self;
    fn shr(self, by: u32) -> Self;
    fn trailing(self) -> u32;
    fn leading(self) -> u32;
    fn ones(self) -> u32;
    fn reversed(self) -> Self;
    fn of(word: u32) -> Self;
    fn is_negative(self) -> bool;
}

macro_rules! int {
    ($($type:ty),*) => {$(
        impl Int for $type {
            const BITS: u32 = <$type>::BITS;
            #[inline(always)]
            fn and(self, other: Self) -> Self { self & other }
            #[inline(always)]
            fn or(self, other: Self) -> Self { self | other }
            #[inline(always)]
            fn xor(self, other: Self) -> Self { self ^ other }
            #[inline(always)]
            fn not(self) -> Self { !self }
            #[inline(always)]
            fn shl(self, by: u32) -> Self { self.wrapping_shl(by) }
            #[inline(always)]
            fn shr(self, by: u32) -> Self { self.wrapping_shr(by) }
            fn trailing(self) -> u32 { self.trailing_zeros() }
            fn leading(self) -> u32 { self.leading_zeros() }
            fn ones(self) -> u32 { self.count_ones() }
            fn reversed(self) -> Self { self.reverse_bits() }
            fn of(word: u32) -> Self { word as Self }
            fn is_negative(self) -> bool { <$type>::MIN != 0 && self.leading_zeros() == 0 }
        }
    )*};
}

int!(u32, i32, u64, i64, u16, i16);
