//! Built-in functions.

use half::f16;
use naga::MathFunction;

use super::{Kernel1, Kernel2, Kernel3, Scalar, with_type};
use crate::lanes::{H, Int, Lane, Num, Rows, Wide};

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
