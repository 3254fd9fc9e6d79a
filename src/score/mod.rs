//! Score modifiers: what happens to a score between the scale and the mask. A file for each, and their order in
//! [`MODIFIERS`], which kernels, the reference and its gradients go by. Dropout, which happens to weights, has its own file.

mod alibi;
mod bias;
pub(crate) mod dropout;
mod softcap;

use std::hash::{Hash, Hasher};

pub(crate) use alibi::ALIBI;
pub(crate) use bias::BIAS;

/// Every modifier but the user-defined function, which comes last, in the order in which they are applied.
pub(crate) const MODIFIERS: [&Modifier; 3] = [&softcap::SOFTCAP, &BIAS, &ALIBI];

/// Everything about a score modifier but its data, which `auxiliary` has.
pub(crate) struct Modifier {
    /// The name in messages.
    pub(crate) name: &'static str,
    /// Whether it is asked for.
    pub(crate) is_used: fn(&ScoreModifiers) -> bool,
    /// Whether a kernel's text has it.
    pub(crate) is_in: fn(&ScoreText) -> bool,
    /// Its file below shaders/, and the text.
    pub(crate) shader: (&'static str, &'static str),
    /// In WGSL, the modified score of `score` at `b, h, q_idx, kv_idx`.
    pub(crate) wgsl: &'static str,
    /// In WGSL, the slope at `scaled`, the scaled product; `None` where it is 1. Only the first modifier may have one, since
    /// those before it would have to be applied again.
    pub(crate) wgsl_slope: Option<&'static str>,
    /// The modified score in f64.
    pub(crate) apply: fn(f64, &Cell) -> f64,
    /// The slope at a score in f64.
    pub(crate) slope: fn(f64, &Cell) -> f64,
}

/// What modifiers read at a cell, in f64; 0 where they aren't asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cell {
    pub(crate) softcap: f64,
    pub(crate) bias: f64,
    pub(crate) alibi_slope: f64,
    /// How far the key is from the query's own position.
    pub(crate) distance: f64,
}

impl ScoreModifiers {
    /// Those that are asked for, in their order.
    pub(crate) fn used(&self) -> impl DoubleEndedIterator<Item = &'static Modifier> + '_ {
        MODIFIERS.into_iter().filter(|modifier| (modifier.is_used)(self))
    }

    /// A score with all modifiers applied, in f64.
    pub(crate) fn apply(&self, score: f64, cell: &Cell) -> f64 {
        self.used().fold(score, |score, modifier| (modifier.apply)(score, cell))
    }
}

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
    /// Adds `bias`, f32 `[batch|1, num_heads|1, seq_len_q|1, seq_len_kv|1]` (T5, Graphormer).
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
    /// The first slot of the dropout's, if weights are dropped.
    pub(crate) dropout: Option<usize>,
    /// A user-defined function, and its name.
    pub(crate) custom: Option<(String, String)>,
    /// The name of its derivative in the same text, for the backward pass.
    pub(crate) custom_gradient: Option<String>,
    /// How its buffers' gradients are made, of those that have one.
    pub(crate) learned: Vec<LearnedText>,
}

/// Of a buffer that a user-defined function reads: what in the text describes its gradient.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LearnedText {
    /// The function that says which element a cell's score depends on.
    pub(crate) index: String,
    /// The derivative with respect to that element.
    pub(crate) gradient: String,
    /// The slot of the number of elements.
    pub(crate) len_slot: usize,
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
        self.used().map(|modifier| modifier.name).chain(self.sinks.then_some("sinks")).collect()
    }

    pub(crate) const fn text(&self, custom: Option<(String, String)>) -> ScoreText {
        ScoreText {
            softcap: self.softcap.is_some(),
            bias: self.bias,
            alibi: self.alibi,
            sinks: self.sinks,
            dropout: None,
            custom,
            custom_gradient: None,
            learned: Vec::new(),
        }
    }
}

impl ScoreText {
    /// Those that the text has, in their order.
    pub(crate) fn modifiers(&self) -> impl DoubleEndedIterator<Item = &'static Modifier> + '_ {
        MODIFIERS.into_iter().filter(|modifier| (modifier.is_in)(self))
    }

    /// Whether scores are more than scaled products.
    pub(crate) fn modifies(&self) -> bool {
        self.modifiers().next().is_some() || self.custom.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_modifier_has_a_slope() {
        let rest = &MODIFIERS[1..];
        assert!(rest.iter().all(|modifier| modifier.wgsl_slope.is_none()));
    }

    #[test]
    fn slopes_are_differences() {
        let cell = Cell { softcap: 2.0, bias: 0.3, alibi_slope: 0.5, distance: 3.0 };
        for modifier in MODIFIERS {
            for score in [-3.0, -0.1, 0.0, 1.7] {
                let of = |score| (modifier.apply)(score, &cell);
                let difference = (of(score + 1e-6) - of(score - 1e-6)) / 2e-6;
                let slope = (modifier.slope)(score, &cell);
                assert!((difference - slope).abs() < 1e-8, "{} at {score}", modifier.name);
            }
        }
    }
}
