//! The sizes of auxiliary tensors that a problem's shape leaves open.

use std::collections::BTreeMap;

use super::AuxTensor;
use crate::error::Result;
use crate::tensor::shape::{Shape, Strides, elements};

/// The sizes of the auxiliary tensors that a problem's shape leaves open: dimensions that broadcast, rounds of hashing,
/// bounds of columns. What isn't in here has its full sizes, and 1 where a size may be anything.
///
/// One-shot calls take it from the data ([`crate::AuxData::shape`]); whoever makes plans says it:
///
/// ```
/// use wgpu_attention::{Mask, AuxTensor, Problem, Shape};
/// use wgpu_attention::auxiliary::AuxShape;
/// // One mask for all sequences and heads.
/// let problem = Problem::new(Shape::new(2, 8, 128, 64))
///     .mask(Mask::Dense)
///     .aux_shape(AuxShape::new().with(AuxTensor::Dense, [1, 1, 128, 128]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AuxShape {
    /// How `bias` broadcasts.
    pub(crate) bias: DenseShape,
    sizes: BTreeMap<AuxTensor, Vec<usize>>,
}

impl AuxShape {
    /// The sizes that follow from the shape.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a tensor of these sizes.
    #[must_use]
    pub fn with(mut self, input: AuxTensor, sizes: impl Into<Vec<usize>>) -> Self {
        let sizes = sizes.into();
        if input == AuxTensor::Bias {
            let is_one = |at: usize| sizes.get(at) == Some(&1);
            self.bias = DenseShape {
                broadcast_batch: is_one(0),
                broadcast_heads: is_one(1),
                broadcast_q: is_one(2),
                broadcast_kv: is_one(3),
            };
        }
        self.sizes.insert(input, sizes);
        self
    }

    /// A tensor's sizes, where they are given.
    pub fn sizes(&self, input: AuxTensor) -> Option<&[usize]> {
        self.sizes.get(&input).map(Vec::as_slice)
    }
}

/// A stride: of a tensor whose size overflows, which is refused where its elements are counted.
const fn times(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}

/// Along which dimensions the bias is the same: `true` means one copy serves all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct DenseShape {
    /// The same for every sequence.
    pub(crate) broadcast_batch: bool,
    /// The same for every query head.
    pub(crate) broadcast_heads: bool,
    /// The same for every query.
    pub(crate) broadcast_q: bool,
    /// The same for every key.
    pub(crate) broadcast_kv: bool,
}

impl DenseShape {
    /// `[batch, heads, rows, keys]` as stored.
    pub(crate) const fn dims(self, shape: &Shape) -> [usize; 4] {
        [
            if self.broadcast_batch { 1 } else { shape.batch },
            if self.broadcast_heads { 1 } else { shape.num_heads },
            if self.broadcast_q { 1 } else { shape.seq_len_q },
            if self.broadcast_kv { 1 } else { shape.seq_len_kv },
        ]
    }

    /// The number of elements.
    pub(crate) fn elements(self, shape: &Shape) -> Result<usize> {
        elements("bias", &self.dims(shape))
    }

    /// Distances in elements, 0 where broadcast.
    pub(crate) fn element_strides(self, shape: &Shape) -> Strides {
        let [_, heads, rows, keys] = self.dims(shape);
        let unless = |broadcast: bool, stride: usize| if broadcast { 0 } else { stride };
        Strides {
            batch: unless(self.broadcast_batch, times(times(heads, rows), keys)),
            head: unless(self.broadcast_heads, times(rows, keys)),
            seq: unless(self.broadcast_q, keys),
            dim: unless(self.broadcast_kv, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auxiliary::{AuxDim, AuxElement, AuxSpec};

    #[test]
    fn sizes_are_given_or_follow_from_the_shape() {
        let shape = Shape::new(2, 4, 3, 8).seq_len_kv(40);
        let dims = [AuxDim::batch(&shape), AuxDim::heads_or_1(&shape), AuxDim::any("rounds")];
        let tensor = AuxSpec::new(AuxTensor::named("x"), AuxElement::I32, dims);
        assert_eq!(tensor.sizes(None).unwrap(), [2, 4, 1]);
        assert_eq!(tensor.sizes(Some(&[2, 1, 7])).unwrap(), [2, 1, 7]);
        let error = tensor.sizes(Some(&[2, 3, 7])).unwrap_err().to_string();
        assert_eq!(
            error,
            "x: expected [batch = 2, num_heads or 1 = 4 or 1, rounds], found [2, 3, 7]"
        );
        assert!(tensor.sizes(Some(&[2, 1])).is_err());
        assert!(tensor.words(Some(&[2, 1, usize::MAX])).is_err());

        let dims = [AuxDim::batch_or_1(&shape), AuxDim::keys(&shape)];
        let bits = AuxSpec::new(AuxTensor::named("x"), AuxElement::Bit, dims).broadcasting();
        assert_eq!(bits.words(None).unwrap(), 4);
        assert_eq!(bits.words(Some(&[1, 40])).unwrap(), 2);
        let error = bits.sizes(Some(&[3, 40])).unwrap_err().to_string();
        assert_eq!(error, "x: expected sizes that broadcast to [2, 40], found [3, 40]");
    }
}
