//! The types that tensors are stored in. Arithmetic is f32 throughout.

use std::borrow::Cow;
use std::fmt;

/// How an element is stored on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16, on devices with `Features::SHADER_F16` and without.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 8 bits, for the keys and values of a [`crate::KvCache`]: four rows stand together, first an f32 for each, its largest
    /// magnitude, then the rows themselves, four components to a 32-bit word, the first in the lowest bits, in 127ths of
    /// that magnitude. So a row takes as many elements as it has components, in whole words, and 4 more. The error is at
    /// most 1/254 of the row's largest component. One-shot calls and the reference don't take it.
    I8,
    /// 4 bits, for the same: 4.5 with what belongs to a group of 32 components, a scale and a zero point, 16 bits together. Four
    /// rows stand together, first their groups, two to a 32-bit word, then the rows, eight components to a word, the first in the
    /// lowest bits. A component is the scale times (its 4 bits − the zero point); the scale is the upper 12 bits of a group's 16,
    /// the exponent and four bits of the mantissa of an f32, the zero point the lower 4. Strides count bytes. The error is at
    /// most a twelfth of the range of a group's components, zero among them, and mostly below a 26th. A group with a NaN, an
    /// infinity, or a range of more than 1e36 reads as NaN.
    I4,
}

impl Dtype {
    /// The size in bytes of what strides count: an element, or of [`Dtype::I4`] a byte.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::I4 => 1,
        }
    }

    /// How many elements a row of `length` components takes, with what scales it.
    pub(crate) const fn row_elements(self, length: usize) -> usize {
        match self {
            Self::I8 => 4 + length.next_multiple_of(4),
            Self::I4 => 4 * (length.div_ceil(64) + length.div_ceil(8)),
            Self::F32 | Self::F16 | Self::Bf16 => length,
        }
    }

    /// Whether rows are stored with scales of their own, as caches alone have them.
    pub(crate) const fn is_quantized(self) -> bool {
        matches!(self, Self::I8 | Self::I4)
    }

    /// The name in messages and in safetensors files, there in capitals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::I4 => "i4",
        }
    }

    /// The nearest number that the type has; of [`Dtype::I8`] and [`Dtype::I4`] that depends on the row, so there it is `x`
    /// itself: see [`Dtype::round_rows`].
    ///
    /// ```
    /// use wgpu_attention::Dtype;
    /// assert_eq!(Dtype::Bf16.round(1.001), 1.0);
    /// assert_eq!(Dtype::F16.round(65_520.0), f32::INFINITY);
    /// ```
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 | Self::I8 | Self::I4 => x,
            Self::F16 => half::f16::from_f32(x).to_f32(),
            Self::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    /// The device's bytes of `values`, filled up to whole words.
    pub(crate) fn encode(self, values: &[f32]) -> Cow<'_, [u8]> {
        let mut bytes: Vec<u8> = match self {
            // `Inputs::check` refuses quantized rows before anything is encoded.
            Self::F32 | Self::I8 | Self::I4 => return Cow::Borrowed(bytemuck::cast_slice(values)),
            Self::F16 => {
                values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()
            }
            Self::Bf16 => {
                values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect()
            }
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Cow::Owned(bytes)
    }

    /// The first `elements` of the device's words.
    pub(crate) fn decode(self, words: &[u32], elements: usize) -> Vec<f32> {
        let bits = |at: usize| (words[at / 2] >> (at % 2 * 16)) as u16;
        match self {
            Self::F32 | Self::I8 | Self::I4 => {
                words[..elements].iter().map(|&word| f32::from_bits(word)).collect()
            }
            Self::F16 => (0..elements).map(|at| half::f16::from_bits(bits(at)).to_f32()).collect(),
            Self::Bf16 => {
                (0..elements).map(|at| half::bf16::from_bits(bits(at)).to_f32()).collect()
            }
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How each tensor is stored; K and V may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Dtypes {
    /// The type of q.
    pub q: Dtype,
    /// The type of k.
    pub k: Dtype,
    /// The type of v.
    pub v: Dtype,
    /// The type of o.
    pub o: Dtype,
    /// The type of the bias.
    pub bias: Dtype,
}

/// How each gradient is stored: f32 unless said otherwise. dout is of o's type; dlse, dsinks and dalibi_slopes are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct GradientDtypes {
    /// The type of dq.
    pub dq: Dtype,
    /// The type of dk.
    pub dk: Dtype,
    /// The type of dv.
    pub dv: Dtype,
    /// The type of dbias.
    pub dbias: Dtype,
}

impl Dtypes {
    setters! {
        const q: Dtype,
        const k: Dtype,
        const v: Dtype,
        const o: Dtype,
        const bias: Dtype,
    }

    /// One type for all.
    pub const fn all(dtype: Dtype) -> Self {
        Self { q: dtype, k: dtype, v: dtype, o: dtype, bias: dtype }
    }
}

impl GradientDtypes {
    setters! {
        const dq: Dtype,
        const dk: Dtype,
        const dv: Dtype,
        const dbias: Dtype,
    }

    /// One type for all.
    pub const fn all(dtype: Dtype) -> Self {
        Self { dq: dtype, dk: dtype, dv: dtype, dbias: dtype }
    }
}

impl From<Dtype> for GradientDtypes {
    fn from(dtype: Dtype) -> Self {
        Self::all(dtype)
    }
}

impl From<Dtype> for Dtypes {
    fn from(dtype: Dtype) -> Self {
        Self::all(dtype)
    }
}
