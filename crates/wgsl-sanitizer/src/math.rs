//! Kernels: one operation on rows of lanes, chosen once when a shader is translated.

use half::f16;
use naga::{BinaryOperator, MathFunction, RelationalFunction, ScalarKind, UnaryOperator};

use crate::lanes::{H, Int, Lane, Num, Rows, Wide};

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

/// A function of f32 and f64, for each of which and for f16 there is a kernel.
macro_rules! of_floats {
    ($scalar:expr, $x:ident => $value:expr) => {
        match $scalar {
            Scalar::F32 => Some(|r, [d, a], n| r.map1(d, a, n, |$x: f32| -> f32 { $value })),
            Scalar::F16 => Some(|r, [d, a], n| {
                r.map1(d, a, n, |x: H| {
                    let $x = x.0.to_f32();
                    let value: f32 = $value;
                    H(f16::from_f32(value))
                });
            }),
            Scalar::F64 => Some(|r, [d, a], n| r.map1(d, a, n, |$x: f64| -> f64 { $value })),
            _ => None,
        }
    };
    ($scalar:expr, $x:ident, $y:ident => $value:expr) => {
        match $scalar {
            Scalar::F32 => Some(|r, at, n| r.map2(at, n, |$x: f32, $y: f32| -> f32 { $value })),
            Scalar::F16 => Some(|r, at, n| {
                r.map2(at, n, |x: H, y: H| {
                    let [$x, $y] = [x.0.to_f32(), y.0.to_f32()];
                    let value: f32 = $value;
                    H(f16::from_f32(value))
                });
            }),
            Scalar::F64 => Some(|r, at, n| r.map2(at, n, |$x: f64, $y: f64| -> f64 { $value })),
            _ => None,
        }
    };
}

/// Functions of one argument, component by component.
pub(crate) fn math1(fun: MathFunction, scalar: Scalar) -> Option<Kernel1> {
    use MathFunction as M;

    fn number<T: Num>(fun: M) -> Option<Kernel1> {
        Some(match fun {
            M::Abs => |r, [d, a], n| r.map1(d, a, n, T::abs),
            M::Sign => |r, [d, a], n| r.map1(d, a, n, T::sign),
            _ => return None,
        })
    }
    fn integer<T: Int>(fun: M) -> Option<Kernel1> {
        Some(match fun {
            M::CountTrailingZeros => |r, [d, a], n| r.map1(d, a, n, |x: T| T::of(x.trailing())),
            M::CountLeadingZeros => |r, [d, a], n| r.map1(d, a, n, |x: T| T::of(x.leading())),
            M::CountOneBits => |r, [d, a], n| r.map1(d, a, n, |x: T| T::of(x.ones())),
            M::ReverseBits => |r, [d, a], n| r.map1(d, a, n, T::reversed),
            M::FirstTrailingBit => |r, [d, a], n| {
                r.map1(
                    d,
                    a,
                    n,
                    |x: T| {
                        if x == T::ZERO { T::ZERO.not() } else { T::of(x.trailing()) }
                    },
                );
            },
            M::FirstLeadingBit => |r, [d, a], n| {
                r.map1(d, a, n, |x: T| {
                    let x = if x.is_negative() { x.not() } else { x };
                    if x == T::ZERO { T::ZERO.not() } else { T::of(T::BITS - 1 - x.leading()) }
                });
            },
            _ => return None,
        })
    }
    let s = scalar;
    match fun {
        M::Abs | M::Sign => with_type!(numbers, s, number(fun)),
        M::CountTrailingZeros
        | M::CountLeadingZeros
        | M::CountOneBits
        | M::ReverseBits
        | M::FirstTrailingBit
        | M::FirstLeadingBit => with_type!(integers, s, integer(fun)),
        M::Saturate => of_floats!(s, x => x.clamp(0.0, 1.0)),
        M::Cos => of_floats!(s, x => x.cos()),
        M::Cosh => of_floats!(s, x => x.cosh()),
        M::Sin => of_floats!(s, x => x.sin()),
        M::Sinh => of_floats!(s, x => x.sinh()),
        M::Tan => of_floats!(s, x => x.tan()),
        M::Tanh => of_floats!(s, x => x.tanh()),
        M::Acos => of_floats!(s, x => x.acos()),
        M::Asin => of_floats!(s, x => x.asin()),
        M::Atan => of_floats!(s, x => x.atan()),
        M::Asinh => of_floats!(s, x => x.asinh()),
        M::Acosh => of_floats!(s, x => x.acosh()),
        M::Atanh => of_floats!(s, x => x.atanh()),
        M::Radians => of_floats!(s, x => x.to_radians()),
        M::Degrees => of_floats!(s, x => x.to_degrees()),
        M::Ceil => of_floats!(s, x => x.ceil()),
        M::Floor => of_floats!(s, x => x.floor()),
        M::Round => of_floats!(s, x => x.round_ties_even()),
        M::Fract => of_floats!(s, x => x - x.floor()),
        M::Trunc => of_floats!(s, x => x.trunc()),
        M::Exp => of_floats!(s, x => x.exp()),
        M::Exp2 => of_floats!(s, x => x.exp2()),
        M::Log => of_floats!(s, x => x.ln()),
        M::Log2 => of_floats!(s, x => x.log2()),
        M::Sqrt => of_floats!(s, x => x.sqrt()),
        M::InverseSqrt => of_floats!(s, x => x.sqrt().recip()),
        M::QuantizeToF16 => Some(|r, [d, a], n| {
            r.map1(d, a, n, |x: f32| f16::from_f32(x).to_f32());
        }),
        M::Pack4x8snorm => Some(|r, at, _| {
            pack(r, at, 4, 8, |x: f32| {
                (x.clamp(-1.0, 1.0) * 127.0).round_ties_even() as i32 as u32
            });
        }),
        M::Pack4x8unorm => Some(|r, at, _| {
            pack(r, at, 4, 8, |x: f32| (x.clamp(0.0, 1.0) * 255.0).round_ties_even() as u32);
        }),
        M::Pack2x16snorm => Some(|r, at, _| {
            pack(r, at, 2, 16, |x: f32| {
                (x.clamp(-1.0, 1.0) * 32767.0).round_ties_even() as i32 as u32
            });
        }),
        M::Pack2x16unorm => Some(|r, at, _| {
            pack(r, at, 2, 16, |x: f32| (x.clamp(0.0, 1.0) * 65535.0).round_ties_even() as u32);
        }),
        M::Pack2x16float => Some(|r, at, _| {
            pack(r, at, 2, 16, |x: f32| u32::from(f16::from_f32(x).to_bits()));
        }),
        M::Pack4xI8 | M::Pack4xU8 => Some(|r, at, _| pack(r, at, 4, 8, |x: u32| x)),
        M::Pack4xI8Clamp => Some(|r, at, _| pack(r, at, 4, 8, |x: i32| x.clamp(-128, 127) as u32)),
        M::Pack4xU8Clamp => Some(|r, at, _| pack(r, at, 4, 8, |x: u32| x.min(255))),
        M::Unpack4x8snorm => Some(|r, at, _| {
            unpack(r, at, 4, 8, |x| (f32::from(x as i8) / 127.0).max(-1.0));
        }),
        M::Unpack4x8unorm => Some(|r, at, _| unpack(r, at, 4, 8, |x| f32::from(x as u8) / 255.0)),
        M::Unpack2x16snorm => Some(|r, at, _| {
            unpack(r, at, 2, 16, |x| (f32::from(x as i16) / 32767.0).max(-1.0));
        }),
        M::Unpack2x16unorm => {
            Some(|r, at, _| unpack(r, at, 2, 16, |x| f32::from(x as u16) / 65535.0))
        }
        M::Unpack2x16float => {
            Some(|r, at, _| unpack(r, at, 2, 16, |x| f16::from_bits(x as u16).to_f32()))
        }
        M::Unpack4xI8 => Some(|r, at, _| unpack(r, at, 4, 8, |x| i32::from(x as i8))),
        M::Unpack4xU8 => Some(|r, at, _| unpack(r, at, 4, 8, |x| u32::from(x as u8))),
        _ => None,
    }
}

fn pack<T: Lane>(r: &Rows, [d, a]: [u32; 2], n: u32, bits: u32, f: impl Fn(T) -> u32) {
    for lane in 0..r.width {
        let fields = (0..n).map(|c| (f(r.value(a + c, lane)) & ((1 << bits) - 1)) << (c * bits));
        r.set(d, lane, fields.fold(0, |word, field| word | field));
    }
}

fn unpack<T: Lane>(r: &Rows, [d, a]: [u32; 2], n: u32, bits: u32, f: impl Fn(u32) -> T) {
    for lane in 0..r.width {
        let word = r.get(a, lane);
        for c in 0..n {
            r.put(d + c, lane, f(word >> (c * bits) & ((1 << bits) - 1)));
        }
    }
}

/// Functions of two arguments, component by component.
pub(crate) fn math2(fun: MathFunction, scalar: Scalar) -> Option<Kernel2> {
    use MathFunction as M;

    fn number<T: Num>(fun: M) -> Option<Kernel2> {
        Some(match fun {
            M::Min => |r, at, n| r.map2(at, n, T::least),
            M::Max => |r, at, n| r.map2(at, n, T::greatest),
            _ => return None,
        })
    }
    let s = scalar;
    match fun {
        M::Min | M::Max => with_type!(numbers, s, number(fun)),
        M::Atan2 => of_floats!(s, y, x => y.atan2(x)),
        M::Pow => of_floats!(s, x, y => x.powf(y)),
        M::Step => of_floats!(s, edge, x => if edge <= x { 1.0 } else { 0.0 }),
        M::Dot4I8Packed => Some(|r, at, n| {
            r.map2(at, n, |x: u32, y: u32| {
                let at = |word: u32, c: u32| i32::from((word >> (8 * c)) as u8 as i8);
                (0..4).map(|c| at(x, c) * at(y, c)).sum::<i32>()
            });
        }),
        M::Dot4U8Packed => Some(|r, at, n| {
            r.map2(at, n, |x: u32, y: u32| {
                (0..4).map(|c| (x >> (8 * c) & 255) * (y >> (8 * c) & 255)).sum::<u32>()
            });
        }),
        _ => None,
    }
}

/// Functions of three arguments, component by component.
pub(crate) fn math3(fun: MathFunction, scalar: Scalar) -> Option<Kernel3> {
    use MathFunction as M;

    fn number<T: Num>(fun: M) -> Option<Kernel3> {
        Some(match fun {
            M::Clamp => {
                |r, at, n| r.map3(at, n, |x: T, low: T, high: T| x.greatest(low).least(high))
            }
            M::Fma => |r, at, n| r.map3(at, n, T::fma),
            M::Mix => |r, at, n| {
                r.map3(at, n, |x: T, y: T, a: T| x.mul(T::ONE.sub(a)).add(y.mul(a)));
            },
            M::SmoothStep => |r, at, n| {
                r.map3(at, n, |low: T, high: T, x: T| {
                    let t = x.sub(low).div(high.sub(low)).greatest(T::ZERO).least(T::ONE);
                    let two = T::ONE.add(T::ONE);
                    t.mul(t).mul(two.add(T::ONE).sub(two.mul(t)))
                });
            },
            _ => return None,
        })
    }
    match fun {
        M::Clamp => with_type!(numbers, scalar, number(fun)),
        M::Fma | M::Mix | M::SmoothStep => with_type!(floats, scalar, number(fun)),
        _ => None,
    }
}

/// `ldexp`: a float and an i32.
pub(crate) fn ldexp(scalar: Scalar) -> Option<Kernel2> {
    fn by_type<T: Num>() -> Option<Kernel2> {
        Some(|r, at, n| {
            r.map2(at, n, |x: T, exponent: i32| {
                let Wide::Float(x) = x.wide() else { return T::ZERO };
                // In two steps, so that neither factor overflows.
                let exponent = exponent.clamp(-2000, 2000);
                let half = exponent / 2;
                T::narrow(Wide::Float(
                    x * f64::from(half).exp2() * f64::from(exponent - half).exp2(),
                ))
            });
        })
    }
    with_type!(floats, scalar, by_type())
}

/// `modf`: the fractions, then the whole parts; `frexp`: the fractions, then the exponents.
pub(crate) fn split(fun: MathFunction, scalar: Scalar) -> Option<Kernel1> {
    fn modf<T: Num>() -> Option<Kernel1> {
        Some(|r, [d, a], n| {
            for lane in 0..r.width {
                for c in 0..n {
                    let words = T::WORDS as u32;
                    let Wide::Float(x) = r.value::<T>(a + c * words, lane).wide() else { return };
                    r.put(d + c * words, lane, T::narrow(Wide::Float(x - x.trunc())));
                    r.put(d + (n + c) * words, lane, T::narrow(Wide::Float(x.trunc())));
                }
            }
        })
    }
    fn frexp<T: Num>() -> Option<Kernel1> {
        Some(|r, [d, a], n| {
            for lane in 0..r.width {
                for c in 0..n {
                    let words = T::WORDS as u32;
                    let Wide::Float(x) = r.value::<T>(a + c * words, lane).wide() else { return };
                    let (fraction, exponent) = fraction_and_exponent(x);
                    r.put(d + c * words, lane, T::narrow(Wide::Float(fraction)));
                    r.put(d + n * words + c, lane, exponent);
                }
            }
        })
    }
    match fun {
        MathFunction::Modf => with_type!(floats, scalar, modf()),
        MathFunction::Frexp => with_type!(floats, scalar, frexp()),
        _ => None,
    }
}

fn fraction_and_exponent(x: f64) -> (f64, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    // f32's subnormal numbers are normal ones here; f64's own are scaled.
    let (x, shift) = if x.abs() < f64::MIN_POSITIVE { (x * 2f64.powi(64), 64) } else { (x, 0) };
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32 - 1022;
    (f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52), exponent - shift)
}

/// `extractBits`: `[to, value, offset, count]`.
pub(crate) fn extract_bits(scalar: Scalar) -> Option<Kernel3> {
    fn by_type<T: Int>() -> Option<Kernel3> {
        Some(|r, [d, e, offset, count], n| {
            for lane in 0..r.width {
                let offset = r.get(offset, lane).min(T::BITS);
                let count = r.get(count, lane).min(T::BITS - offset);
                for c in 0..n {
                    let at = c * T::WORDS as u32;
                    let x: T = r.value(e + at, lane);
                    let value = match count {
                        0 => T::ZERO,
                        _ => x.shl(T::BITS - offset - count).shr(T::BITS - count),
                    };
                    r.put(d + at, lane, value);
                }
            }
        })
    }
    with_type!(integers, scalar, by_type())
}

/// `insertBits` into what `to` holds: `[to, bits, offset, count]`.
pub(crate) fn insert_bits(scalar: Scalar) -> Option<Kernel3> {
    fn by_type<T: Int>() -> Option<Kernel3> {
        Some(|r, [d, bits, offset, count], n| {
            for lane in 0..r.width {
                let offset = r.get(offset, lane).min(T::BITS);
                let count = r.get(count, lane).min(T::BITS - offset);
                if count == 0 {
                    continue;
                }
                for c in 0..n {
                    let at = c * T::WORDS as u32;
                    let ones = T::ZERO.not();
                    let low = if count == T::BITS { ones } else { ones.shl(count).not() };
                    let field = low.shl(offset);
                    let x: T = r.value(d + at, lane);
                    let new = r.value::<T>(bits + at, lane).shl(offset);
                    r.put(d + at, lane, x.and(field.not()).or(new.and(field)));
                }
            }
        })
    }
    with_type!(integers, scalar, by_type())
}
