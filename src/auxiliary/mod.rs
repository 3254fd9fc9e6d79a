//! Auxiliary tensors: what masks, score modifiers and sequences of different lengths read beside q, k and v. Their names,
//! types and sizes; their data on the CPU and on the device.

// The module isn't called `aux`, since Windows reserves that file name.

mod buffers;
pub(crate) mod check;
mod data;
pub(crate) mod score;
pub(crate) mod sequences;
pub(crate) mod shape;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub use buffers::AuxBuffers;
use check::{Check, Values};
pub use data::AuxData;
pub use shape::AuxShape;

use crate::error::{Error, Result};
use crate::tensor::shape::{Shape, elements};

/// The name of an auxiliary tensor.
///
/// Each tensor has a constant, declared beside what reads it: [`AuxTensor::KeyLengths`], [`AuxTensor::Bias`],
/// [`AuxTensor::BlockTables`]. A mask leaf that appears twice can read data of its own, whose names are numbered:
///
/// ```
/// use wgpu_attention::{Mask, AuxTensor};
/// let mask = Mask::KeyLengths | Mask::KeyLengths.numbered(2);
/// assert_eq!(mask.aux_tensors(), [AuxTensor::KeyLengths, AuxTensor::KeyLengths.numbered(2)]);
/// assert_eq!(mask.aux_tensors()[1].name(), "key_lengths_2");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuxTensor {
    base: &'static str,
    number: u32,
}

impl AuxTensor {
    /// A tensor of that name, the first of its kind.
    pub(crate) const fn named(base: &'static str) -> Self {
        Self { base, number: 1 }
    }

    /// The tensor of a leaf's data number `number`; the first is 1, and so is 0.
    #[must_use]
    pub const fn numbered(self, number: u32) -> Self {
        Self { number: if number == 0 { 1 } else { number }, ..self }
    }

    /// The name in files, messages and the documentation.
    pub fn name(self) -> Cow<'static, str> {
        match self.number {
            1 => self.base.into(),
            number => format!("{}_{number}", self.base).into(),
        }
    }

    /// The name without its number, for labels.
    pub(crate) const fn base(self) -> &'static str {
        self.base
    }

    /// Which of its kind it is, from 1 on.
    pub const fn number(self) -> u32 {
        self.number
    }
}

impl fmt::Display for AuxTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Debug for AuxTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// What the caller copies into the mask buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InputName {
    Known(AuxTensor),
    /// A buffer of a user-defined function.
    WgslFunction(Arc<str>),
}

impl InputName {
    /// The name in files and messages.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Known(input) => input.name(),
            Self::WgslFunction(name) => Cow::Borrowed(name),
        }
    }
}

/// The type of an auxiliary tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuxElement {
    /// i32
    I32,
    /// f32
    F32,
    /// Not zero where the key is kept: a word on the device, u8 or bool in files.
    Flag,
    /// Set where the cell is kept: a bit on the device, u8 or bool in files.
    Bit,
}

impl AuxElement {
    /// The name in the documentation.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Flag => "u32",
            Self::Bit => "bits",
        }
    }
}

/// A dimension of an auxiliary tensor: what it counts, and the sizes that it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuxDim {
    /// The name in messages, such as `num_heads or 1`.
    pub name: &'static str,
    /// The name in the documentation's tables, such as `H or 1`.
    pub symbol: &'static str,
    /// The sizes that it may have: any size where there are none; unless data say otherwise, the first.
    pub sizes: Vec<usize>,
}

impl AuxDim {
    pub(crate) fn new(
        name: &'static str,
        symbol: &'static str,
        sizes: impl Into<Vec<usize>>,
    ) -> Self {
        Self { name, symbol, sizes: sizes.into() }
    }

    pub(crate) fn batch(shape: &Shape) -> Self {
        Self::new("batch", "B", [shape.batch])
    }

    pub(crate) fn batch_or_1(shape: &Shape) -> Self {
        Self::new("batch or 1", "B or 1", [shape.batch, 1])
    }

    pub(crate) fn heads(shape: &Shape) -> Self {
        Self::new("num_heads", "H", [shape.num_heads])
    }

    pub(crate) fn heads_or_1(shape: &Shape) -> Self {
        Self::new("num_heads or 1", "H or 1", [shape.num_heads, 1])
    }

    pub(crate) fn queries(shape: &Shape) -> Self {
        Self::new("seq_len_q", "Tq", [shape.seq_len_q])
    }

    pub(crate) fn queries_or_1(shape: &Shape) -> Self {
        Self::new("seq_len_q or 1", "Tq or 1", [shape.seq_len_q, 1])
    }

    pub(crate) fn keys(shape: &Shape) -> Self {
        Self::new("seq_len_kv", "Tk", [shape.seq_len_kv])
    }

    pub(crate) fn keys_or_1(shape: &Shape) -> Self {
        Self::new("seq_len_kv or 1", "Tk or 1", [shape.seq_len_kv, 1])
    }

    /// Of whatever size.
    pub(crate) fn any(name: &'static str) -> Self {
        Self::new(name, name, [])
    }

    /// The size that it has unless data say otherwise.
    pub fn default_size(&self) -> usize {
        self.sizes.first().copied().unwrap_or(1)
    }
}

/// An auxiliary tensor of a problem: its type, and the sizes that it has or may have under a shape.
///
/// ```
/// use wgpu_attention::{Mask, Shape};
/// let mask = Mask::causal() & Mask::KeyLengths;
/// let [lengths] = &mask.aux_specs(&Shape::new(2, 8, 128, 64))[..] else { unreachable!() };
/// assert_eq!(lengths.tensor().name(), "key_lengths");
/// assert_eq!(lengths.sizes(None)?, [2]);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Clone)]
pub struct AuxSpec {
    pub(crate) input: AuxTensor,
    pub(crate) element: AuxElement,
    pub(crate) dims: Vec<AuxDim>,
    /// Its sizes broadcast: each is the dimension's or 1, and those in front may be missing in files.
    pub(crate) broadcasts: bool,
    /// Other names that it may have in files, such as one that queries and keys share.
    pub(crate) other_names: &'static [&'static str],
    /// Whether its values are ones that a kernel may go by; their number has been checked.
    pub(crate) check: Option<Check>,
}

/// The sizes of an auxiliary tensor of a checked problem, on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSizes {
    pub(crate) input: AuxTensor,
    /// In 32-bit words: of bits, 32 keys of a row share one.
    pub(crate) sizes: Vec<usize>,
    /// Their product.
    pub(crate) words: usize,
}

impl AuxSpec {
    /// A tensor whose values may be anything.
    pub(crate) fn new(input: AuxTensor, element: AuxElement, dims: impl Into<Vec<AuxDim>>) -> Self {
        Self { input, element, dims: dims.into(), broadcasts: false, other_names: &[], check: None }
    }

    /// The same with a check of its values.
    pub(crate) fn checked(self, check: impl Fn(&Values<'_>) -> Result<()> + 'static) -> Self {
        Self { check: Some(Arc::new(check)), ..self }
    }

    /// The same where files may hold it under other names.
    pub(crate) fn also_named(self, other_names: &'static [&'static str]) -> Self {
        Self { other_names, ..self }
    }

    /// Which tensor it is.
    pub const fn tensor(&self) -> AuxTensor {
        self.input
    }

    /// The type of its elements.
    pub const fn element(&self) -> AuxElement {
        self.element
    }

    /// Its dimensions, from the outermost to the innermost.
    pub fn dims(&self) -> &[AuxDim] {
        &self.dims
    }

    /// Whether its sizes broadcast: each is the dimension's or 1, and those in front may be missing in files.
    pub const fn broadcasts(&self) -> bool {
        self.broadcasts
    }

    /// The names that it may have in files, its own first.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let number = self.input.number();
        let other = move |&name| AuxTensor::named(name).numbered(number).to_string();
        [self.input.to_string()].into_iter().chain(self.other_names.iter().map(other))
    }

    /// The same where its sizes broadcast.
    pub(crate) fn broadcasting(self) -> Self {
        Self { broadcasts: true, ..self }
    }

    /// Whether the problem's shape leaves its sizes open, so that they come with the data.
    pub fn is_open(&self) -> bool {
        self.broadcasts || self.dims.iter().any(|dim| dim.sizes.len() != 1)
    }

    /// Its sizes: those that are given, or as the shape has them.
    ///
    /// # Errors
    /// [`Error::Operand`] where a given size isn't one that the dimension may have.
    pub fn sizes(&self, given: Option<&[usize]>) -> Result<Vec<usize>> {
        let Some(given) = given else {
            return Ok(self.dims.iter().map(AuxDim::default_size).collect());
        };
        let fits =
            |(dim, size): (&AuxDim, &usize)| dim.sizes.is_empty() || dim.sizes.contains(size);
        if given.len() == self.dims.len() && self.dims.iter().zip(given).all(fits) {
            return Ok(given.to_vec());
        }
        Err(self.wrong_sizes(given))
    }

    /// The tensor that both are, if there are sizes that both may have.
    pub(crate) fn common(&self, other: &Self) -> Option<Self> {
        let dims = (self.dims.iter().zip(&other.dims)).map(|(a, b)| {
            let both = |size: &&usize| b.sizes.is_empty() || b.sizes.contains(size);
            match (a.sizes.is_empty(), b.sizes.is_empty()) {
                (true, _) => Some(b.clone()),
                (false, true) => Some(a.clone()),
                (false, false) => {
                    let sizes: Vec<usize> = a.sizes.iter().filter(both).copied().collect();
                    let narrower = if sizes.len() == b.sizes.len() { b } else { a };
                    (!sizes.is_empty()).then(|| AuxDim { sizes, ..narrower.clone() })
                }
            }
        });
        Some(Self { dims: dims.collect::<Option<_>>()?, ..self.clone() })
    }

    /// The error about sizes that don't fit.
    pub(crate) fn wrong_sizes(&self, found: &[usize]) -> Error {
        let expected = match self.broadcasts {
            true => {
                let full: Vec<usize> = self.dims.iter().map(AuxDim::default_size).collect();
                format!("sizes that broadcast to {full:?}")
            }
            false => self.expected_sizes(),
        };
        Error::operand(self.input.name(), expected, format!("{found:?}"))
    }

    /// `[batch = 2, num_heads or 1 = 4 or 1, rounds]`
    fn expected_sizes(&self) -> String {
        let dims: Vec<String> = (self.dims.iter())
            .map(|dim| match &dim.sizes[..] {
                [] => dim.name.to_owned(),
                [size] if size.to_string() == dim.name => dim.name.to_owned(),
                [size] => format!("{} = {size}", dim.name),
                // The name has the sizes.
                _ if dim.name.starts_with(|c: char| c.is_ascii_digit()) => dim.name.to_owned(),
                sizes => {
                    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
                    format!("{} = {}", dim.name, sizes.join(" or "))
                }
            })
            .collect();
        format!("[{}]", dims.join(", "))
    }

    /// Its sizes on the device, in words: of bits, 32 keys of a row share one.
    pub(crate) fn device_sizes(&self, mut sizes: Vec<usize>) -> Vec<usize> {
        if self.element == AuxElement::Bit
            && let (Some(row), Some(keys)) = (sizes.last_mut(), self.dims.last())
        {
            *row = keys.default_size().div_ceil(32);
        }
        sizes
    }

    /// Its sizes on the device, with those that are given or as the shape has them.
    ///
    /// # Errors
    /// As [`AuxSpec::words`].
    pub(crate) fn resolve(&self, given: Option<&[usize]>) -> Result<TensorSizes> {
        let sizes = self.device_sizes(self.sizes(given)?);
        let words = elements(&self.input.name(), &sizes)?;
        Ok(TensorSizes { input: self.input, sizes, words })
    }

    /// How many 32-bit words it has on the device, with sizes that are given or as the shape has them.
    ///
    /// # Errors
    /// [`Error::Operand`] where the sizes don't fit, or the number doesn't fit `usize`.
    pub(crate) fn words(&self, given: Option<&[usize]>) -> Result<usize> {
        Ok(self.resolve(given)?.words)
    }

    /// Its row in tables of the documentation: `` `bucket_ids` i32 [B,H or 1,rounds,Tk] ``.
    pub(crate) fn description(&self) -> String {
        let name = self.input.name();
        if self.broadcasts {
            return format!("`{name}` {}, broadcast over [B,H,Tq]", self.element.name());
        }
        let symbols: Vec<&str> = self.dims.iter().map(|dim| dim.symbol).collect();
        format!("`{name}` {} [{}]", self.element.name(), symbols.join(","))
    }
}
