//! The tensors of the score modifiers.

use super::data::MaskData;
use super::{Dim, Element, MaskInput, TensorSpec};
use crate::score::Score;
use crate::shape::Shape;

#[expect(non_upper_case_globals, reason = "tensors are named as the masks that read them")]
impl MaskInput {
    /// `bias`, f32 `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`, added to the scores: see [`crate::Score`].
    pub const Bias: Self = Self::named("bias");
    /// `alibi_slopes`, f32 `[num_heads]`: see [`crate::Score`].
    pub const AlibiSlopes: Self = Self::named("alibi_slopes");
    /// `sinks`, f32 `[num_heads]`: see [`crate::Score`].
    pub const Sinks: Self = Self::named("sinks");
}

impl MaskData {
    /// `bias`, of sizes `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]`, added to the scores.
    #[must_use]
    pub fn bias(self, dims: [usize; 4], values: impl IntoIterator<Item = f32>) -> Self {
        self.floats(MaskInput::Bias, values).sized(MaskInput::Bias, dims)
    }

    /// `alibi_slopes`, `[num_heads]`.
    #[must_use]
    pub fn alibi_slopes(self, slopes: impl IntoIterator<Item = f32>) -> Self {
        self.floats(MaskInput::AlibiSlopes, slopes)
    }

    /// `sinks`, `[num_heads]`.
    #[must_use]
    pub fn sinks(self, logits: impl IntoIterator<Item = f32>) -> Self {
        self.floats(MaskInput::Sinks, logits)
    }

    /// A cell of a checked bias.
    pub(crate) fn bias_at(&self, cell: [usize; 4]) -> f32 {
        f32::from_bits(self.word(MaskInput::Bias, cell))
    }

    /// An element of `alibi_slopes` or `sinks`, checked.
    pub(crate) fn of_head(&self, input: MaskInput, h: usize) -> f32 {
        f32::from_bits(self.words(input)[h])
    }
}

/// What the modifiers read.
pub(crate) fn tensors(score: &Score, shape: &Shape) -> Vec<TensorSpec> {
    let per_head = |input| TensorSpec::new(input, Element::F32, [Dim::heads(shape)]);
    let bias = score.bias.then(|| bias(shape));
    let alibi = score.alibi.then(|| per_head(MaskInput::AlibiSlopes));
    let sinks = score.sinks.then(|| per_head(MaskInput::Sinks));
    bias.into_iter().chain(alibi).chain(sinks).collect()
}

/// What is added to the scores.
fn bias(shape: &Shape) -> TensorSpec {
    let dims = [
        Dim::batch_or_1(shape),
        Dim::heads_or_1(shape),
        Dim::queries_or_1(shape),
        Dim::keys(shape),
    ];
    TensorSpec::new(MaskInput::Bias, Element::F32, dims).broadcasting()
}
