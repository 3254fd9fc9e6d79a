//! What is computed beside the product of q, k and v.

use burn::tensor::Tensor;
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{AuxData, AuxTensor, Mask, Problem, ScoreModifiers};

use crate::auxiliary::SharedAux;

/// Mask, score modifiers and their data. Attention without options is over every key, scaled by `1 / sqrt(head_dim)`.
///
/// Clones share the data, which is uploaded once for each device and shape: make options once, and pass them to all layers.
///
/// ```
/// use wgpu_attention_burn::Options;
/// use wgpu_attention_burn::wgpu_attention::{AuxData, Mask};
/// let options = Options::new(Mask::causal() & Mask::KeyLengths)
///     .aux(AuxData::new().key_lengths([128, 57]))
///     .softcap(30.0);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    mask: Mask,
    scale: Option<f32>,
    softcap: Option<f32>,
    alibi: bool,
    score_mod: Option<WgslFunction>,
    aux: SharedAux,
    bias: Option<Tensor<4>>,
    sinks: Option<Tensor<1>>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new(Mask::All)
    }
}

impl Options {
    /// A mask: which keys each query attends to.
    pub fn new(mask: Mask) -> Self {
        Self {
            mask,
            scale: None,
            softcap: None,
            alibi: false,
            score_mod: None,
            aux: SharedAux::default(),
            bias: None,
            sinks: None,
        }
    }

    /// Which keys each query attends to.
    #[must_use]
    pub fn mask(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// What scores are multiplied with, instead of `1 / sqrt(head_dim)`.
    #[must_use]
    pub fn scale(self, scale: impl Into<Option<f32>>) -> Self {
        Self { scale: scale.into(), ..self }
    }

    /// Scores become `softcap · tanh(score / softcap)`.
    #[must_use]
    pub fn softcap(self, softcap: impl Into<Option<f32>>) -> Self {
        Self { softcap: softcap.into(), ..self }
    }

    /// Whether ALiBi's slopes are applied, which are among the data: `AuxData::alibi_slopes`.
    #[must_use]
    pub fn alibi(self, alibi: bool) -> Self {
        Self { alibi, ..self }
    }

    /// A function in WGSL that scores go through last before the mask: see [`Problem::score_mod`]. For gradients its text holds
    /// its derivative, too.
    #[must_use]
    pub fn score_mod(self, function: impl Into<Option<WgslFunction>>) -> Self {
        Self { score_mod: function.into(), ..self }
    }

    /// The data of the mask, of ALiBi and of user-defined functions.
    #[must_use]
    pub fn aux(self, data: AuxData) -> Self {
        Self { aux: SharedAux::new(data), ..self }
    }

    /// Added to the scores: `[batch or 1, heads or 1, seq_q or 1, seq_kv]`. It may have gradients.
    #[must_use]
    pub fn bias(self, bias: impl Into<Option<Tensor<4>>>) -> Self {
        Self { bias: bias.into(), ..self }
    }

    /// A logit for each head, `[heads]`, that takes part in the softmax and has no value. It may have gradients.
    #[must_use]
    pub fn sinks(self, sinks: impl Into<Option<Tensor<1>>>) -> Self {
        Self { sinks: sinks.into(), ..self }
    }

    pub(crate) const fn get_bias(&self) -> Option<&Tensor<4>> {
        self.bias.as_ref()
    }

    pub(crate) const fn get_sinks(&self) -> Option<&Tensor<1>> {
        self.sinks.as_ref()
    }

    pub(crate) const fn get_aux(&self) -> &SharedAux {
        &self.aux
    }

    /// A problem with these options.
    pub(crate) fn apply(&self, problem: Problem) -> Problem {
        let mut score = ScoreModifiers::default()
            .bias(self.bias.is_some())
            .alibi(self.alibi)
            .sinks(self.sinks.is_some());
        if let Some(softcap) = self.softcap {
            score = score.softcap(softcap);
        }
        let mut shape = self.aux.data().shape();
        if let Some(bias) = &self.bias {
            shape = shape.with(AuxTensor::Bias, bias.dims());
        }
        let mut problem = problem.mask(self.mask.clone()).score(score).aux_shape(shape);
        if let Some(scale) = self.scale {
            problem = problem.scale(scale);
        }
        match &self.score_mod {
            Some(function) => problem.score_mod(function.clone()),
            None => problem,
        }
    }
}
