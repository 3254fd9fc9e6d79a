//! Kernels: one operation on rows of lanes, chosen once when a shader is translated.

mod functions;

use half::f16;
use naga::{BinaryOperator, RelationalFunction, ScalarKind, UnaryOperator};

use crate::lanes::{H, Int, Lane, Num, Rows, Wide};

pub(crate) use functions::{extract_bits, insert_bits, ldexp, math1, math2, math3, split};

/// `[to, from]`, and how many components.
pub(crate) type Kernel1 = fn(&Rows, [u32; 2], u32);
pub(crate) type Kernel2 = fn(&Rows, [u32; 3], u32);
pub(crate) type Kernel3 = fn(&Rows, [u32; 4], u32);

/// A scalar type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scalar {
    Bool,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    F32,
    F64,
}

impl Scalar {
    pub(crate) fn new(scalar: naga::Scalar) -> Option<Self> {
        Some(match (scalar.kind, scalar.width) {
            (ScalarKind::Bool, _) => Self::Bool,
            (ScalarKind::Sint, 2) => Self::I16,
            (ScalarKind::Uint, 2) => Self::U16,
            (ScalarKind::Sint, 4) => Self::I32,
            (ScalarKind::Uint, 4) => Self::U32,
            (ScalarKind::Sint, 8) => Self::I64,
            (ScalarKind::Uint, 8) => Self::U64,
            (ScalarKind::Float, 2) => Self::F16,
            (ScalarKind::Float, 4) => Self::F32,
            (ScalarKind::Float, 8) => Self::F64,
            _ => return None,
        })
    }

    /// Rows that one takes.
    pub(crate) fn words(self) -> u32 {
        if matches!(self, Self::I64 | Self::U64 | Self::F64) { 2 } else { 1 }
    }

    /// Bytes that one takes in a buffer.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Self::I16 | Self::U16 | Self::F16 => 2,
            Self::Bool | Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Self::I16 | Self::I32 | Self::I64)
    }

    /// The words of a number.
    pub(crate) fn of_number(self, value: f64) -> u64 {
        let wide = Wide::Float(value);
        match self {
            Self::Bool => u64::from(value != 0.0),
            Self::I16 => u64::from(i16::narrow(wide) as u16),
            Self::U16 => u64::from(u16::narrow(wide)),
            Self::I32 => u64::from(i32::narrow(wide) as u32),
            Self::U32 => u64::from(u32::narrow(wide)),
            Self::I64 => i64::narrow(wide) as u64,
            Self::U64 => u64::narrow(wide),
            Self::F16 => u64::from(H::narrow(wide).0.to_bits()),
            Self::F32 => u64::from((value as f32).to_bits()),
            Self::F64 => value.to_bits(),
        }
    }

    /// What the bits mean, for people.
    pub(crate) fn text(self, bits: u64) -> String {
        let low = bits as u32;
        match self {
            Self::Bool => (low != 0).to_string(),
            Self::I16 => (low as i16).to_string(),
            Self::U16 => (low as u16).to_string(),
            Self::I32 => (low as i32).to_string(),
            Self::U32 => low.to_string(),
            Self::I64 => (bits as i64).to_string(),
            Self::U64 => bits.to_string(),
            Self::F16 => f16::from_bits(low as u16).to_string(),
            Self::F32 => format!("{:?}", f32::from_bits(low)),
            Self::F64 => format!("{:?}", f64::from_bits(bits)),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

/// Calls a generic function with the Rust type of a scalar type, or gives `None` where there is none in the list.
macro_rules! with_type {
    (numbers, $scalar:expr, $function:ident $args:tt) => {
        match $scalar {
            Scalar::I16 => $function::<i16> $args,
            Scalar::U16 => $function::<u16> $args,
            Scalar::I32 => $function::<i32> $args,
            Scalar::U32 => $function::<u32> $args,
            Scalar::I64 => $function::<i64> $args,
            Scalar::U64 => $function::<u64> $args,
            Scalar::F16 => $function::<H> $args,
            Scalar::F32 => $function::<f32> $args,
            Scalar::F64 => $function::<f64> $args,
            Scalar::Bool => None,
        }
    };
    (integers, $scalar:expr, $function:ident $args:tt) => {
        match $scalar {
            Scalar::I16 => $function::<i16> $args,
            Scalar::U16 => $function::<u16> $args,
            Scalar::I32 => $function::<i32> $args,
            Scalar::U32 => $function::<u32> $args,
            Scalar::I64 => $function::<i64> $args,
            Scalar::U64 => $function::<u64> $args,
            _ => None,
        }
    };
    (floats, $scalar:expr, $function:ident $args:tt) => {
        match $scalar {
            Scalar::F16 => $function::<H> $args,
            Scalar::F32 => $function::<f32> $args,
            Scalar::F64 => $function::<f64> $args,
            _ => None,
        }
    };
}
pub(crate) use with_type;

pub(crate) fn unary(op: UnaryOperator, scalar: Scalar) -> Option<Kernel1> {
    fn negate<T: Num>() -> Option<Kernel1> {
        Some(|r, [d, a], n| r.map1(d, a, n, T::neg))
    }
    fn invert<T: Int>() -> Option<Kernel1> {
        Some(|r, [d, a], n| r.map1(d, a, n, T::not))
    }
    match op {
        UnaryOperator::Negate => with_type!(numbers, scalar, negate()),
        UnaryOperator::BitwiseNot => with_type!(integers, scalar, invert()),
        UnaryOperator::LogicalNot => Some(|r, [d, a], n| r.map1(d, a, n, |x: bool| !x)),
    }
}

pub(crate) fn binary(op: BinaryOperator, scalar: Scalar) -> Option<Kernel2> {
    use BinaryOperator as B;

    fn number<T: Num>(op: B) -> Option<Kernel2> {
        Some(match op {
            B::Add => |r, at, n| r.map2(at, n, T::add),
            B::Subtract => |r, at, n| r.map2(at, n, T::sub),
            B::Multiply => |r, at, n| r.map2(at, n, T::mul),
            B::Divide => |r, at, n| r.map2(at, n, T::div),
            B::Modulo => |r, at, n| r.map2(at, n, T::rem),
            B::Equal => |r, at, n| r.map2(at, n, |x: T, y: T| x == y),
            B::NotEqual => |r, at, n| r.map2(at, n, |x: T, y: T| x != y),
            B::Less => |r, at, n| r.map2(at, n, |x: T, y: T| x < y),
            B::LessEqual => |r, at, n| r.map2(at, n, |x: T, y: T| x <= y),
            B::Greater => |r, at, n| r.map2(at, n, |x: T, y: T| x > y),
            B::GreaterEqual => |r, at, n| r.map2(at, n, |x: T, y: T| x >= y),
            _ => return None,
        })
    }
    fn integer<T: Int>(op: B) -> Option<Kernel2> {
        Some(match op {
            B::And => |r, at, n| r.map2(at, n, T::and),
            B::InclusiveOr => |r, at, n| r.map2(at, n, T::or),
            B::ExclusiveOr => |r, at, n| r.map2(at, n, T::xor),
            B::ShiftLeft => |r, at, n| r.map2(at, n, |x: T, by: u32| x.shl(by)),
            B::ShiftRight => |r, at, n| r.map2(at, n, |x: T, by: u32| x.shr(by)),
            _ => return None,
        })
    }
    if scalar == Scalar::Bool {
        return Some(match op {
            B::And | B::LogicalAnd => |r, at, n| r.map2(at, n, |x: bool, y: bool| x & y),
            B::InclusiveOr | B::LogicalOr => |r, at, n| r.map2(at, n, |x: bool, y: bool| x | y),
            B::Equal => |r, at, n| r.map2(at, n, |x: bool, y: bool| x == y),
            B::NotEqual | B::ExclusiveOr => |r, at, n| r.map2(at, n, |x: bool, y: bool| x != y),
            _ => return None,
        });
    }
    with_type!(numbers, scalar, number(op)).or_else(|| with_type!(integers, scalar, integer(op)))
}

/// From one type to another, by value.
pub(crate) fn convert(from: Scalar, to: Scalar) -> Option<Kernel1> {
    fn from_type<A: Num>(to: Scalar) -> Option<Kernel1> {
        fn both<A: Num, R: Num>() -> Option<Kernel1> {
            Some(|r, [d, a], n| r.map1(d, a, n, |x: A| R::narrow(x.wide())))
        }
        match to {
            Scalar::I16 => both::<A, i16>(),
            Scalar::U16 => both::<A, u16>(),
            Scalar::I32 => both::<A, i32>(),
            Scalar::U32 => both::<A, u32>(),
            Scalar::I64 => both::<A, i64>(),
            Scalar::U64 => both::<A, u64>(),
            Scalar::F16 => both::<A, H>(),
            Scalar::F32 => both::<A, f32>(),
            Scalar::F64 => both::<A, f64>(),
            Scalar::Bool => Some(|r, [d, a], n| r.map1(d, a, n, |x: A| x != A::ZERO)),
        }
    }
    fn from_bool<R: Num>() -> Option<Kernel1> {
        Some(|r, [d, a], n| r.map1(d, a, n, |x: bool| if x { R::ONE } else { R::ZERO }))
    }
    // Between integers the low bits stay; floats are clamped.
    fn integers<A: Int>(to: Scalar) -> Option<Kernel1> {
        fn wide<A: Int>(x: A) -> i128 {
            match x.wide() {
                Wide::Int(value) => value,
                Wide::Float(_) => 0,
            }
        }
        Some(match to {
            Scalar::I16 => |r, [d, a], n| r.map1(d, a, n, |x: A| wide(x) as i16),
            Scalar::U16 => |r, [d, a], n| r.map1(d, a, n, |x: A| wide(x) as u16),
            Scalar::I32 => |r, [d, a], n| r.map1(d, a, n, |x: A| wide(x) as i32),
            Scalar::U32 => |r, [d, a], n| r.map1(d, a, n, |x: A| wide(x) as u32),
            Scalar::I64 => |r, [d, a], n| r.map1(d, a, n, |x: A| wide(x) as i64),
            Scalar::U64 => |r, [d, a], n| r.map1(d, a, n, |x: A| wide(x) as u64),
            _ => return None,
        })
    }
    match (from, to) {
        (Scalar::Bool, Scalar::Bool) => Some(|r, [d, a], n| r.copy(d, a, n)),
        (Scalar::Bool, _) => with_type!(numbers, to, from_bool()),
        _ => with_type!(integers, from, integers(to))
            .or_else(|| with_type!(numbers, from, from_type(to))),
    }
}

/// `[to, condition, accept, reject]`, the condition with a component for each.
pub(crate) fn select(words: u32) -> Kernel3 {
    fn by_words<T: Lane>(r: &Rows, [d, condition, accept, reject]: [u32; 4], n: u32) {
        for c in 0..n {
            let at = c * T::WORDS as u32;
            for lane in 0..r.width {
                let from = if r.get(condition + c, lane) != 0 { accept } else { reject };
                r.put(d + at, lane, r.value::<T>(from + at, lane));
            }
        }
    }
    if words == 2 { by_words::<u64> } else { by_words::<u32> }
}

pub(crate) fn relational(fun: RelationalFunction, scalar: Scalar) -> Option<Kernel1> {
    fn nan<T: Num>() -> Option<Kernel1> {
        Some(|r, [d, a], n| {
            r.map1(d, a, n, |x: T| matches!(x.wide(), Wide::Float(x) if x.is_nan()))
        })
    }
    fn inf<T: Num>() -> Option<Kernel1> {
        Some(|r, [d, a], n| {
            r.map1(d, a, n, |x: T| matches!(x.wide(), Wide::Float(x) if x.is_infinite()));
        })
    }
    match fun {
        RelationalFunction::IsNan => with_type!(floats, scalar, nan()),
        RelationalFunction::IsInf => with_type!(floats, scalar, inf()),
        RelationalFunction::All => Some(|r, [d, a], n| {
            r.fill(d, 1);
            for c in 0..n {
                r.map2([d, d, a + c], 1, |x: bool, y: bool| x & y);
            }
        }),
        RelationalFunction::Any => Some(|r, [d, a], n| {
            r.fill(d, 0);
            for c in 0..n {
                r.map2([d, d, a + c], 1, |x: bool, y: bool| x | y);
            }
        }),
    }
}
