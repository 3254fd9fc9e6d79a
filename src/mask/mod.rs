//! Masks: which keys a query may attend to, described once.
//!
//! A [`Mask`] is an expression of leaves joined by `&`, `|` and `!`. It says *keep*: true means attend.
//! The same expression is evaluated on the CPU ([`eval`]), printed and parsed ([`text`]), and emitted as WGSL
//! that keeps a cell, classes a tile and bounds a row ([`emit`]). What a leaf reads at run time, lengths or ids,
//! is data, found by its name ([`data`]), so one expression compiles once.

pub(crate) mod data;
pub(crate) mod emit;
pub(crate) mod eval;
pub(crate) mod text;

use std::ops::{BitAnd, BitOr, Not};

pub use data::{MaskData, MaskInput};
pub use eval::Evaluator;

/// Which keys a query attends to.
///
/// ```
/// use wgpu_attention::Mask;
/// let decoder = Mask::causal() & Mask::KeyLengths;
/// assert_eq!(decoder.to_string(), "causal & key_lengths");
/// assert_eq!("causal & key_lengths".parse::<Mask>().unwrap(), decoder);
/// ```
///
/// Where queries and keys differ in number, a query's own position among the keys is
/// `q_idx + (seq_len_kv − seq_len_q)`, as with a key-value cache: the last query stands at the last key.
/// [`Causal`] can say otherwise; [`Window`], `not_self` and `self_only_if_alone` hold to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mask {
    /// `all`: every key.
    All,
    /// `causal`: the query's own position and those before it.
    Causal(Causal),
    /// `window(left, right)`: the keys around the query's own position.
    Window(Window),
    /// `key_lengths`: the first `key_lengths[b]` keys of each sequence (right padding).
    KeyLengths,
    /// `key_padding`: the keys whose entry in `key_padding[b, kv_idx]` is not zero.
    KeyPadding,
    /// `token_padding`: the keys whose `token_ids[b, kv_idx]` isn't `pad_id`.
    TokenPadding,
    /// `prefix`: the first `prefix_lengths[b]` keys, for all queries. `prefix | causal` is a prefix-LM.
    Prefix,
    /// `documents`: the keys of the query's own document, `document_ids_q[b, q_idx] == document_ids_kv[b, kv_idx]`.
    Documents,
    /// `not_self`: every key but the query's own position.
    NotSelf,
    /// `self_only_if_alone(mask)`: what `mask` keeps, the query's own position only where `mask` keeps
    /// nothing else for it (Reformer, arXiv 2001.04451, §2, on causal masking with shared queries and keys).
    SelfOnlyIfAlone(Box<Mask>),
    /// `dense`: the keys whose bit is set in a tensor broadcastable to `[batch, heads, seq_len_q, seq_len_kv]`.
    Dense,
    /// Both.
    And(Box<Mask>, Box<Mask>),
    /// Either.
    Or(Box<Mask>, Box<Mask>),
    /// What the mask doesn't keep.
    Not(Box<Mask>),
}

/// Where the causal diagonal lies when queries and keys differ in number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Causal {
    /// The last query sees the last key: `kv_idx ≤ q_idx + seq_len_kv − seq_len_q` (FlashAttention, KV caches).
    #[default]
    LowerRight,
    /// The first query sees the first key alone: `kv_idx ≤ q_idx` (PyTorch's `is_causal`, ONNX without a cache).
    UpperLeft,
    /// `kv_idx ≤ q_idx + offset`.
    Offset(i32),
}

/// A window around the query's own position, both ends inclusive; `None` is unbounded.
///
/// `(Some(W − 1), Some(0))` is Hugging Face's `sliding_window = W`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// How many keys before the own position are kept.
    pub left: Option<u32>,
    /// How many keys after the own position are kept.
    pub right: Option<u32>,
}

impl Mask {
    /// `causal`, aligned at the lower right: see [`Causal`].
    pub const fn causal() -> Self {
        Self::Causal(Causal::LowerRight)
    }

    /// `window(left, right)`, both inclusive, `None` for unbounded.
    pub fn window(left: impl Into<Option<u32>>, right: impl Into<Option<u32>>) -> Self {
        Self::Window(Window { left: left.into(), right: right.into() })
    }

    /// What `self` keeps, the query's own position only where it keeps nothing else.
    #[must_use]
    pub fn self_only_if_alone(self) -> Self {
        Self::SelfOnlyIfAlone(Box::new(self))
    }

    /// The data that the mask reads, each once, in the order of [`MaskInput::ALL`].
    pub fn inputs(&self) -> Vec<MaskInput> {
        MaskInput::ALL
            .into_iter()
            .filter(|input| self.any(&|mask| mask.leaf_inputs().contains(input)))
            .collect()
    }

    /// What this node itself reads.
    fn leaf_inputs(&self) -> &'static [MaskInput] {
        match self {
            Self::KeyLengths => &[MaskInput::KeyLengths],
            Self::KeyPadding => &[MaskInput::KeyPadding],
            Self::TokenPadding => &[MaskInput::TokenIds, MaskInput::PadId],
            Self::Prefix => &[MaskInput::PrefixLengths],
            Self::Documents => &[MaskInput::DocumentIdsQ, MaskInput::DocumentIdsKv],
            Self::Dense => &[MaskInput::Dense],
            _ => &[],
        }
    }

    /// Whether some leaf's tiles can be classed only by looking at its data.
    pub(crate) fn needs_tile_map(&self) -> bool {
        self.any(&|mask| {
            matches!(mask, Self::KeyPadding | Self::TokenPadding | Self::Documents | Self::Dense)
        })
    }

    /// Whether `test` holds for this node or for one below it.
    fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self) || self.children().into_iter().flatten().any(|child| child.any(test))
    }

    fn children(&self) -> [Option<&Self>; 2] {
        match self {
            Self::And(a, b) | Self::Or(a, b) => [Some(a), Some(b)],
            Self::Not(a) | Self::SelfOnlyIfAlone(a) => [Some(a), None],
            _ => [None, None],
        }
    }

    /// How deep the expression nests; see [`text::MAX_DEPTH`].
    pub(crate) fn depth(&self) -> usize {
        1 + self.children().into_iter().flatten().map(Self::depth).max().unwrap_or(0)
    }
}

impl BitAnd for Mask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }
}

impl BitOr for Mask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self::Or(Box::new(self), Box::new(other))
    }
}

impl Not for Mask {
    type Output = Self;
    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}
