//! Score modifiers: what happens to a score between the scale and the mask.

use std::hash::{Hash, Hasher};

/// What is done to the scores, in this order: scale, softcap, bias, ALiBi, mask, softmax with sinks.
///
/// Their data is found by name: `bias`, `alibi_slopes`, `sinks` ([`crate::AuxTensor`]).
///
/// ```
/// use wgpu_attention::{Problem, ScoreModifiers, Shape};
/// let gemma2 = Problem::new(Shape::new(1, 8, 128, 256)).score(ScoreModifiers::default().softcap(50.0));
/// ```
///
/// Two are equal where their numbers have the same bits, so that a [`crate::Problem`] can be a key.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ScoreModifiers {
    /// `softcap · tanh(score / softcap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Adds `bias`, f32 `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv]` (T5, Graphormer).
    pub bias: bool,
    /// Subtracts `alibi_slopes[h]` times the distance from the query's own position (ALiBi).
    pub alibi: bool,
    /// Adds `exp(sinks[h])` to the softmax's denominator (gpt-oss). A row that keeps no key then has `lse = sinks[h]`.
    pub sinks: bool,
}

/// What of a [`ScoreModifiers`] a kernel's text depends on.
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

impl PartialEq for ScoreModifiers {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for ScoreModifiers {}

impl Hash for ScoreModifiers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits().hash(state);
    }
}

impl ScoreModifiers {
    setters! {
        const some softcap: f32,
        const bias: bool,
        const alibi: bool,
        const sinks: bool,
    }

    /// No modifiers, as [`ScoreModifiers::default`], also in constants.
    pub const fn new() -> Self {
        Self { softcap: None, bias: false, alibi: false, sinks: false }
    }

    /// What tells it from others. A field that is missing here doesn't compile.
    fn bits(&self) -> (Option<u32>, [bool; 3]) {
        let Self { softcap, bias, alibi, sinks } = *self;
        (softcap.map(f32::to_bits), [bias, alibi, sinks])
    }

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
