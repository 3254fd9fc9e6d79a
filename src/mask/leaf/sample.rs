//! Examples of leaves with data: what the gallery draws and the tests run.

use super::super::Mask;
use super::LeafSpec;
use crate::auxiliary::AuxData;
use crate::tensor::shape::Shape;

/// How many positions the samples' sequences have.
pub(super) const LEN: usize = 24;

/// An example of a leaf.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MaskSample {
    /// The name of its picture.
    pub name: &'static str,
    /// The expression.
    pub mask: Mask,
    /// What it keeps, in a sentence.
    pub sentence: &'static str,
    /// The paper or the model that has it, in Markdown; empty where there is none to name.
    pub source: &'static str,
    /// The sizes that the data are for.
    pub shape: Shape,
    /// What the expression reads.
    pub data: AuxData,
}

impl MaskSample {
    /// An example under the leaf's own name, over as many queries as keys.
    pub(super) fn new(leaf: &dyn LeafSpec, mask: Mask, sentence: &'static str) -> Self {
        Self {
            name: leaf.name(),
            mask,
            sentence,
            source: leaf.source(),
            shape: Shape::new(1, 1, LEN, 1),
            data: AuxData::new(),
        }
    }

    /// The same under another name, where a leaf has several, and without its source.
    pub(super) fn variant(self, name: &'static str) -> Self {
        Self { name, source: "", ..self }
    }

    /// The same over fewer queries than keys, as with a cache.
    pub(super) fn with_cache(self) -> Self {
        Self { shape: Shape::new(1, 1, 10, 1).seq_len_kv(LEN), ..self }
    }

    pub(super) fn data(self, data: AuxData) -> Self {
        Self { data, ..self }
    }

    /// The rows of the documentation's tables about what the expression reads, one for each tensor.
    pub fn reads(&self) -> Vec<String> {
        self.mask.aux_specs(&self.shape).iter().map(|tensor| tensor.description()).collect()
    }
}

/// Ids of runs of these lengths, from 0 on.
pub(super) fn runs(lengths: &[usize]) -> impl Iterator<Item = i32> + '_ {
    (0..).zip(lengths).flat_map(|(id, &length)| std::iter::repeat_n(id, length))
}
