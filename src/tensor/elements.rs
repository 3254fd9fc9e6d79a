//! Elements of tensors on the CPU, in the types that devices store.

use std::borrow::Cow;

use half::{bf16, f16};

use crate::tensor::dtype::Dtype;

/// The elements of a tensor on the CPU, of whichever type they are.
///
/// It's made from slices, vectors and arrays of f32, [`half::f16`] and [`half::bf16`]. Elements of the type that the device
/// stores ([`crate::Problem::dtypes`]) are uploaded as they are; others are converted, rounding to nearest.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Elements<'a> {
    /// [`Dtype::F32`]
    F32(&'a [f32]),
    /// [`Dtype::F16`]
    F16(&'a [f16]),
    /// [`Dtype::Bf16`]
    Bf16(&'a [bf16]),
}

/// A type of elements that one-shot calls give: f32, [`half::f16`], [`half::bf16`].
pub trait Element: bytemuck::Pod + Default + sealed::Sealed {
    /// How a device stores it.
    const DTYPE: Dtype;

    /// The nearest number of the type.
    fn from_f32(x: f32) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($variant:ident: $type:ty, $from_f32:expr;)*) => {
        $(
            impl sealed::Sealed for $type {}

            impl Element for $type {
                const DTYPE: Dtype = Dtype::$variant;

                fn from_f32(x: f32) -> Self {
                    $from_f32(x)
                }
            }

            impl<'a> From<&'a [$type]> for Elements<'a> {
                fn from(elements: &'a [$type]) -> Self {
                    Self::$variant(elements)
                }
            }

            impl<'a> From<&'a Vec<$type>> for Elements<'a> {
                fn from(elements: &'a Vec<$type>) -> Self {
                    Self::$variant(elements)
                }
            }

            impl<'a> From<&'a Cow<'_, [$type]>> for Elements<'a> {
                fn from(elements: &'a Cow<'_, [$type]>) -> Self {
                    Self::$variant(elements)
                }
            }

            impl<'a, const N: usize> From<&'a [$type; N]> for Elements<'a> {
                fn from(elements: &'a [$type; N]) -> Self {
                    Self::$variant(elements)
                }
            }
        )*
    };
}

elements! {
    F32: f32, std::convert::identity;
    F16: f16, f16::from_f32;
    Bf16: bf16, bf16::from_f32;
}

impl<'a> Elements<'a> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(elements) => elements.len(),
            Self::F16(elements) => elements.len(),
            Self::Bf16(elements) => elements.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub const fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }

    /// The same numbers in f32.
    pub fn to_f32(&self) -> Cow<'a, [f32]> {
        match *self {
            Self::F32(elements) => Cow::Borrowed(elements),
            Self::F16(elements) => elements.iter().map(|x| x.to_f32()).collect(),
            Self::Bf16(elements) => elements.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// The bytes of a device that stores them as `dtype`.
    pub(crate) fn encode(&self, dtype: Dtype) -> Cow<'a, [u8]> {
        match *self {
            Self::F32(elements) => dtype.encode(elements),
            Self::F16(elements) if dtype == Dtype::F16 => {
                Cow::Borrowed(bytemuck::cast_slice(elements))
            }
            Self::Bf16(elements) if dtype == Dtype::Bf16 => {
                Cow::Borrowed(bytemuck::cast_slice(elements))
            }
            Self::F16(_) | Self::Bf16(_) => Cow::Owned(dtype.encode(&self.to_f32()).into_owned()),
        }
    }
}

/// The first `count` elements of the words of a device that stores them as `dtype`.
pub(crate) fn decode<T: Element>(dtype: Dtype, words: &[u32], count: usize) -> Vec<T> {
    if dtype == T::DTYPE {
        return bytemuck::cast_slice(words)[..count].to_vec();
    }
    dtype.decode(words, count).into_iter().map(T::from_f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type to every other and back: numbers that all of them have.
    #[test]
    fn types_are_converted() {
        let values = [1.0f32, -2.5, 0.0, 192.0, f32::INFINITY];
        let halves = values.map(f16::from_f32);
        let brains = values.map(bf16::from_f32);
        for from in [Elements::from(&values), (&halves).into(), (&brains).into()] {
            assert_eq!((from.len(), &*from.to_f32()), (5, &values[..]));
            for to in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let mut bytes = from.encode(to).into_owned();
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
                assert_eq!(decode::<f32>(to, &words, 5), values, "{} as {to}", from.dtype());
                assert_eq!(decode::<f16>(to, &words, 5), halves, "{} as {to}", from.dtype());
                assert_eq!(decode::<bf16>(to, &words, 5), brains, "{} as {to}", from.dtype());
            }
        }
    }

    #[test]
    fn elements_of_the_stored_type_are_not_copied() {
        let halves = [f16::ONE; 3];
        assert!(matches!(Elements::from(&halves).encode(Dtype::F16), Cow::Borrowed(_)));
        let brains = [bf16::ONE; 3];
        assert!(matches!(Elements::from(&brains).encode(Dtype::Bf16), Cow::Borrowed(_)));
        assert!(matches!(Elements::from(&[1.0f32; 3]).encode(Dtype::F32), Cow::Borrowed(_)));
    }
}
