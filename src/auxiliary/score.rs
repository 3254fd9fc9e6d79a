//! The tensors of the score modifiers.

use super::data::AuxData;
use super::{AuxDim, AuxElement, AuxSpec, AuxTensor};
use crate::score::ScoreModifiers;
use crate::tensor::shape::Shape;

#[expect(non_upper_case_globals, reason = "tensors are named as the masks that read them")]
impl AuxTensor {
    /// `bias`, f32 `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]`, added to the scores: see [`crate::ScoreModifiers`].
    pub const Bias: Self = Self::named("bias");
    /// `alibi_slopes`, f32 `[num_heads]` or `[batch, num_heads]`: see [`crate::ScoreModifiers`].
    pub const AlibiSlopes: Self = Self::named("alibi_slopes");
    /// `sinks`, f32 `[num_heads]`: see [`crate::ScoreModifiers`].
    pub const Sinks: Self = Self::named("sinks");
    /// `dropout_seed`, i32 `[2]`, the lower half first: see [`crate::Problem::dropout`].
    pub const DropoutSeed: Self = Self::named("dropout_seed");
}

impl AuxData {
    /// `bias`, of sizes `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]`, added to the scores.
    #[must_use]
    pub fn bias(self, dims: [usize; 4], values: impl IntoIterator<Item = f32>) -> Self {
        self.floats(AuxTensor::Bias, values).sized(AuxTensor::Bias, dims)
    }

    /// `alibi_slopes`, `[num_heads]`.
    #[must_use]
    pub fn alibi_slopes(self, slopes: impl IntoIterator<Item = f32>) -> Self {
        self.floats(AuxTensor::AlibiSlopes, slopes)
    }

    /// `alibi_slopes`, of sizes `[batch|1, num_heads]`: slopes for each sequence.
    #[must_use]
    pub fn alibi_slopes_per_sequence(
        self,
        dims: [usize; 2],
        slopes: impl IntoIterator<Item = f32>,
    ) -> Self {
        self.floats(AuxTensor::AlibiSlopes, slopes).sized(AuxTensor::AlibiSlopes, dims)
    }

    /// `sinks`, `[num_heads]`.
    #[must_use]
    pub fn sinks(self, logits: impl IntoIterator<Item = f32>) -> Self {
        self.floats(AuxTensor::Sinks, logits)
    }

    /// `dropout_seed`: any number; with the same one, the same weights are dropped.
    #[must_use]
    pub fn dropout_seed(self, seed: u64) -> Self {
        let halves = [seed as u32, (seed >> 32) as u32];
        self.ints(AuxTensor::DropoutSeed, halves.map(u32::cast_signed))
    }

    /// A checked seed.
    pub(crate) fn get_dropout_seed(&self) -> u64 {
        let words = self.words(AuxTensor::DropoutSeed);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    /// A cell of a checked bias.
    pub(crate) fn bias_at(&self, cell: [usize; 4]) -> f32 {
        f32::from_bits(self.word(AuxTensor::Bias, cell))
    }

    /// A slope of ALiBi, checked.
    pub(crate) fn alibi_slope(&self, b: usize, h: usize) -> f32 {
        let at = match self.sizes(AuxTensor::AlibiSlopes) {
            Some(&[batch, heads]) if batch > 1 => b * heads + h,
            _ => h,
        };
        f32::from_bits(self.words(AuxTensor::AlibiSlopes)[at])
    }

    /// A sink, checked.
    pub(crate) fn sink(&self, h: usize) -> f32 {
        f32::from_bits(self.words(AuxTensor::Sinks)[h])
    }
}

/// What the modifiers read.
pub(crate) fn tensors(score: &ScoreModifiers, shape: &Shape) -> Vec<AuxSpec> {
    let new = |input, dims: &[AuxDim]| AuxSpec::new(input, AuxElement::F32, dims);
    // One set of slopes unless the data say otherwise.
    let sequences = AuxDim::new("batch or 1", "B or 1", [1, shape.batch]);
    let bias = score.bias.then(|| bias(shape));
    let alibi =
        score.alibi.then(|| new(AuxTensor::AlibiSlopes, &[sequences, AuxDim::heads(shape)]));
    let sinks = score.sinks.then(|| new(AuxTensor::Sinks, &[AuxDim::heads(shape)]));
    bias.into_iter().chain(alibi).chain(sinks).collect()
}

/// What dropout reads.
pub(crate) fn dropout_seed() -> AuxSpec {
    AuxSpec::new(AuxTensor::DropoutSeed, AuxElement::I32, [AuxDim::new("2", "2", [2])])
}

/// What is added to the scores.
fn bias(shape: &Shape) -> AuxSpec {
    let dims = [
        AuxDim::batch_or_1(shape),
        AuxDim::heads_or_1(shape),
        AuxDim::queries_or_1(shape),
        AuxDim::keys_or_1(shape),
    ];
    AuxSpec::new(AuxTensor::Bias, AuxElement::F32, dims).broadcasting()
}
