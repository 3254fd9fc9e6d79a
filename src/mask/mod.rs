//! Masks: which keys a query may attend to, described once.
//!
//! A [`Mask`] is an expression of leaves joined by `&`, `|` and `!`. It says *keep*: true means attend.
//! The same expression is evaluated on the CPU ([`eval`]), printed and parsed ([`text`]), and emitted as WGSL
//! that keeps a cell, classes a tile and bounds a row ([`emit`]). What a leaf reads at run time, lengths or ids,
//! is data, found by its name ([`data`]), so one expression compiles once.

pub mod compositions;
pub(crate) mod data;
pub(crate) mod emit;
pub(crate) mod eval;
pub(crate) mod layout;
pub(crate) mod places;
pub(crate) mod slots;
pub(crate) mod text;
pub(crate) mod tile;

use std::ops::{BitAnd, BitOr, Not};

pub use data::{MaskData, MaskInput};
pub use eval::Evaluator;

use crate::custom::Custom;
use crate::error::{Error, Result};
use crate::shape::Shape;

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
    /// `chunk(size)`: the keys of the own position's chunk of `size` positions (Llama 4, with `causal`).
    Chunk(u32),
    /// `dilated(window, step)`: every `step`th key, up to `window` of them on either side of the own position
    /// (Longformer, arXiv 2004.05150, §3.1).
    Dilated {
        /// How many keys are kept on either side.
        window: u32,
        /// The distance from one to the next; at least 1.
        step: u32,
    },
    /// `strided(step)`: every `step`th key, counted from the own position (Sparse Transformer, arXiv 1904.10509, §4.3).
    Strided(u32),
    /// `global(tokens)`: the first keys for every query, and every key for the first queries (Longformer, BigBird).
    Global(u32),
    /// `block_bidirectional`: the keys of the query's own block, `block_ids_q[b, q_idx] == block_ids_kv[b, kv_idx]`,
    /// if that isn't negative. `causal | block_bidirectional` lets the tokens of an image see each other.
    BlockBidirectional,
    /// `buckets`: the keys whose bucket is the own position's in some round of hashing (Reformer's LSH attention).
    Buckets,
    /// `column_ranges`: all but the rows that each key's column names (FlashMask, arXiv 2410.01359).
    ColumnRanges(ColumnRanges),
    /// `tree`: the keys before the last `seq_len_q`, the own position and its ancestors, by `tree_parents[b, q_idx]`
    /// (speculative decoding).
    Tree,
    /// `per_head(a, b, …)`: a mask for each head, or for each run of `num_heads / n` heads.
    PerHead(Vec<Mask>),
    /// `wgsl`: what a function of the user's own keeps, `fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool`.
    /// It runs on the device alone: [`Evaluator`] and [`crate::reference`] refuse it.
    Wgsl(Custom),
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

/// How [`Mask::ColumnRanges`] reads a column's bounds, which are rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ColumnRanges {
    /// One bound masks the rows from it on, two mask `start..end`, four two such ranges. FlashMask's causal forms are
    /// `causal & column_ranges`.
    #[default]
    Ranges,
    /// `column_ranges(bidirectional)`: two bounds mask the rows from the first on and those before the second.
    Bidirectional,
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
            Self::BlockBidirectional => &[MaskInput::BlockIdsQ, MaskInput::BlockIdsKv],
            Self::Buckets => &[MaskInput::BucketIds],
            Self::ColumnRanges(_) => &[MaskInput::ColumnRanges],
            Self::Tree => &[MaskInput::TreeParents],
            _ => &[],
        }
    }

    /// The functions of the user's own, from the left.
    pub(crate) fn customs(&self) -> Vec<&Custom> {
        match self {
            Self::Wgsl(custom) => vec![custom],
            _ => self.children().into_iter().flat_map(Self::customs).collect(),
        }
    }

    /// Whether some leaf's tiles can be classed only by looking at its data.
    pub(crate) fn needs_tile_map(&self) -> bool {
        let has_closed_form = |mask: &Self| matches!(mask, Self::KeyLengths | Self::Prefix);
        self.any(&|mask| {
            let reads = matches!(mask, Self::Wgsl(_)) || !mask.leaf_inputs().is_empty();
            reads && !has_closed_form(mask)
        })
    }

    /// Whether `test` holds for this node or for one below it.
    fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self) || self.children().into_iter().any(|child| child.any(test))
    }

    fn children(&self) -> Vec<&Self> {
        match self {
            Self::And(a, b) | Self::Or(a, b) => vec![a, b],
            Self::Not(a) | Self::SelfOnlyIfAlone(a) => vec![a],
            Self::PerHead(masks) => masks.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the numbers in the expression fit the shape.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] that names the leaf.
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        let at_least_one = |name: &str, value: u32| match value {
            0 => Err(Error::operand(name, "at least 1", 0)),
            _ => Ok(()),
        };
        match self {
            Self::Chunk(size) => at_least_one("chunk's size", *size)?,
            Self::Strided(step) => at_least_one("strided's step", *step)?,
            Self::Dilated { step, .. } => at_least_one("dilated's step", *step)?,
            Self::PerHead(masks)
                if masks.is_empty() || !shape.num_heads.is_multiple_of(masks.len()) =>
            {
                return Err(Error::operand(
                    "per_head",
                    format!("a number of masks that divides num_heads = {}", shape.num_heads),
                    masks.len(),
                ));
            }
            Self::Tree if shape.seq_len_kv < shape.seq_len_q => {
                return Err(Error::operand(
                    "tree",
                    "at least as many keys as queries",
                    format!("{} keys, {} queries", shape.seq_len_kv, shape.seq_len_q),
                ));
            }
            _ => {}
        }
        self.children().into_iter().try_for_each(|child| child.check(shape))
    }

    /// How deep the expression nests; see [`text::MAX_DEPTH`].
    pub(crate) fn depth(&self) -> usize {
        1 + self.children().into_iter().map(Self::depth).max().unwrap_or(0)
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
