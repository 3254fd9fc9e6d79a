//! Score modifiers: what happens to a score between the scale and the mask.

/// What is done to the scores, in this order: scale, softcap, bias, ALiBi, mask, softmax with sinks.
///
/// Their data is found by name: `bias`, `alibi_slopes`, `sinks` ([`crate::MaskInput`]).
///
/// ```
/// use wgpu_attention::{Problem, Score, Shape};
/// let gemma2 = Problem::new(Shape::new(1, 8, 128, 256)).score(Score { softcap: Some(50.0), ..Score::default() });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// `softcap · tanh(score / softcap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Adds `bias`, f32 `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]` (T5, Graphormer).
    pub bias: bool,
    /// Subtracts `alibi_slopes[h]` times the distance from the query's own position (ALiBi).
    pub alibi: bool,
    /// Adds `exp(sinks[h])` to the softmax's denominator (gpt-oss). A row that keeps no key then has `lse = sinks[h]`.
    pub sinks: bool,
}

/// What of a [`Score`] a kernel's text depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct ScoreText {
    pub(crate) softcap: bool,
    pub(crate) bias: bool,
    pub(crate) alibi: bool,
    pub(crate) sinks: bool,
    /// A function of the user's own, and its name.
    pub(crate) custom: Option<(String, String)>,
    /// The name of its derivative in the same text, for the backward pass.
    pub(crate) custom_gradient: Option<String>,
}

impl Score {
    /// The modifiers' names, in the order in which they are applied.
    pub(crate) fn words(&self) -> Vec<&'static str> {
        let used = [
            (self.softcap.is_some(), "softcap"),
            (self.bias, "bias"),
            (self.alibi, "ALiBi"),
            (self.sinks, "sinks"),
        ];
        used.into_iter().filter_map(|(used, name)| used.then_some(name)).collect()
    }

    pub(crate) const fn text(&self, custom: Option<(String, String)>) -> ScoreText {
        ScoreText {
            softcap: self.softcap.is_some(),
            bias: self.bias,
            alibi: self.alibi,
            sinks: self.sinks,
            custom,
            custom_gradient: None,
        }
    }
}

impl ScoreText {
    /// Whether scores are more than scaled products.
    pub(crate) const fn modifies(&self) -> bool {
        self.softcap || self.bias || self.alibi || self.custom.is_some()
    }
}
