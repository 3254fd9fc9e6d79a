//! Auxiliary tensors on the CPU.

use std::collections::BTreeMap;

use super::shape::AuxShape;
use super::{AuxElement, AuxSpec, AuxTensor};
use crate::custom::CustomBuffer;
use crate::error::{Error, Result};

/// What masks, score modifiers and sequences read, on the CPU, by name.
///
/// ```
/// use wgpu_attention::AuxData;
/// let data = AuxData::new()
///     .key_lengths([6, 3])
///     .token_ids([5, 9, 9, 4, 5, 8, 3, 7, 2, 0, 0, 0], 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuxData {
    tensors: BTreeMap<AuxTensor, HostTensor>,
    custom: BTreeMap<String, Vec<u32>>,
}

/// A tensor as given.
#[derive(Debug, Clone, PartialEq)]
struct HostTensor {
    /// Where they don't follow from the problem's shape.
    sizes: Option<Vec<usize>>,
    elements: Elements,
}

#[derive(Debug, Clone, PartialEq)]
enum Elements {
    Words(Vec<u32>),
    Flags(Vec<bool>),
}

impl AuxData {
    /// No data.
    pub const fn new() -> Self {
        Self { tensors: BTreeMap::new(), custom: BTreeMap::new() }
    }

    /// The same with the tensors of `data` under the number of a leaf's data: see [`crate::Mask::numbered`].
    ///
    /// ```
    /// use wgpu_attention::AuxData;
    /// let data = AuxData::new().key_lengths([6, 3]).with_numbered(2, AuxData::new().key_lengths([2, 5]));
    /// ```
    #[must_use]
    pub fn with_numbered(mut self, number: u32, data: Self) -> Self {
        let renamed =
            data.tensors.into_iter().map(|(input, tensor)| (input.numbered(number), tensor));
        self.tensors.extend(renamed);
        self.custom.extend(data.custom);
        self
    }

    /// The buffer of a user-defined function, of f32.
    #[must_use]
    pub fn custom_f32(self, name: &str, values: impl IntoIterator<Item = f32>) -> Self {
        self.custom_u32(name, values.into_iter().map(f32::to_bits))
    }

    /// The buffer of a user-defined function, of i32.
    #[must_use]
    pub fn custom_i32(self, name: &str, values: impl IntoIterator<Item = i32>) -> Self {
        self.custom_u32(name, values.into_iter().map(i32::cast_unsigned))
    }

    /// The buffer of a user-defined function, of u32.
    #[must_use]
    pub fn custom_u32(mut self, name: &str, values: impl IntoIterator<Item = u32>) -> Self {
        self.custom.insert(name.to_owned(), values.into_iter().collect());
        self
    }

    /// The words of a user-defined function's buffer.
    pub(crate) fn custom_words(&self, buffer: &CustomBuffer) -> Result<&[u32]> {
        let name = || format!("wgsl buffer `{}`", buffer.name);
        match self.custom.get(&*buffer.name) {
            None => Err(Error::operand(name(), "data, for the function names it", "none")),
            Some(words) if words.len() == buffer.len => Ok(words),
            Some(words) => Err(Error::operand(
                name(),
                format!("{} elements", buffer.len),
                format!("{} elements", words.len()),
            )),
        }
    }

    /// A tensor of i32 by its name, for programs that go by [`crate::Problem::aux_specs`]; others have a setter for each
    /// tensor.
    #[must_use]
    pub fn ints(self, input: AuxTensor, values: impl IntoIterator<Item = i32>) -> Self {
        let words = values.into_iter().map(i32::cast_unsigned).collect();
        self.insert(input, Elements::Words(words))
    }

    /// A tensor of f32 by its name.
    #[must_use]
    pub fn floats(self, input: AuxTensor, values: impl IntoIterator<Item = f32>) -> Self {
        let words = values.into_iter().map(f32::to_bits).collect();
        self.insert(input, Elements::Words(words))
    }

    /// A tensor of bits by its name.
    #[must_use]
    pub fn bits(self, input: AuxTensor, values: impl IntoIterator<Item = bool>) -> Self {
        self.insert(input, Elements::Flags(values.into_iter().collect()))
    }

    fn insert(mut self, input: AuxTensor, elements: Elements) -> Self {
        self.tensors.insert(input, HostTensor { sizes: None, elements });
        self
    }

    /// The same with the sizes of a tensor whose shape the problem leaves open: [`crate::auxiliary::AuxSpec::is_open`].
    #[must_use]
    pub fn sized(mut self, input: AuxTensor, sizes: impl Into<Vec<usize>>) -> Self {
        if let Some(tensor) = self.tensors.get_mut(&input) {
            tensor.sizes = Some(sizes.into());
        }
        self
    }

    /// The sizes that the problem's shape leaves open, for [`crate::Problem::aux_shape`].
    pub fn shape(&self) -> AuxShape {
        self.tensors.iter().fold(AuxShape::new(), |shape, (&input, tensor)| match &tensor.sizes {
            Some(sizes) => shape.with(input, sizes.clone()),
            None => shape,
        })
    }

    /// How many elements a tensor has, if it is there.
    pub(crate) fn len(&self, input: AuxTensor) -> Option<usize> {
        self.tensors.get(&input).map(|tensor| match &tensor.elements {
            Elements::Words(words) => words.len(),
            Elements::Flags(flags) => flags.len(),
        })
    }

    /// The sizes of a tensor whose shape the problem leaves open.
    pub(crate) fn sizes(&self, input: AuxTensor) -> Option<&[usize]> {
        self.tensors.get(&input).and_then(|tensor| tensor.sizes.as_deref())
    }

    /// The elements of a tensor, one a word; none of one that has bits.
    pub(crate) fn words(&self, input: AuxTensor) -> &[u32] {
        match self.tensors.get(&input).map(|tensor| &tensor.elements) {
            Some(Elements::Words(words)) => words,
            Some(Elements::Flags(_)) | None => &[],
        }
    }

    /// An element of a checked tensor, by its place in memory.
    pub(crate) fn int(&self, input: AuxTensor, index: usize) -> i32 {
        self.words(input)[index].cast_signed()
    }

    /// An element of a checked tensor that was given with its sizes. A dimension of size 1 is broadcast.
    pub(crate) fn word(&self, input: AuxTensor, cell: [usize; 4]) -> u32 {
        let tensor = &self.tensors[&input];
        let sizes = tensor.sizes.as_deref().unwrap_or_default();
        let index = (sizes.iter().zip(cell))
            .fold(0, |index, (&size, at)| index * size + if size == 1 { 0 } else { at });
        match &tensor.elements {
            Elements::Words(words) => words[index],
            Elements::Flags(flags) => u32::from(flags[index]),
        }
    }

    /// A checked tensor in the device's format: see [`AuxSpec::device_sizes`].
    pub(crate) fn device_words(&self, tensor: &AuxSpec) -> Vec<u32> {
        let (AuxElement::Bit, Ok(sizes)) = (tensor.element, tensor.sizes(self.sizes(tensor.input)))
        else {
            return self.words(tensor.input).to_vec();
        };
        let (&[batch, heads, rows, _], Some(keys)) = (&sizes[..], tensor.dims.last()) else {
            return Vec::new();
        };
        let keys = keys.default_size();
        let mut words = Vec::new();
        for b in 0..batch {
            for h in 0..heads {
                for row in 0..rows {
                    let bit = |kv_idx: usize| match kv_idx < keys {
                        true => self.word(tensor.input, [b, h, row, kv_idx]),
                        false => 0,
                    };
                    words.extend(
                        (0..keys.div_ceil(32)).map(|word| {
                            (0..32).fold(0, |bits, at| bits | bit(word * 32 + at) << at)
                        }),
                    );
                }
            }
        }
        words
    }
}
