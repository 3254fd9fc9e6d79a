//! Masks: which keys a query may attend to, described once, as an expression.
//!
//! A [`Mask`] is an expression of leaves joined by `&`, `|` and `!`. It says *keep*: true means attend. [`Mask::leaves`] lists
//! the leaves.

// The same expression is evaluated on the CPU (`eval`), printed and parsed (`text`), and emitted as WGSL
// that keeps a cell, classes a tile and bounds a row (`emit`). What a leaf (`leaf`) reads at run time, lengths or ids,
// is an auxiliary tensor, found by its name, so one expression compiles once.

mod block_index;
pub mod compositions;
pub(crate) mod emit;
pub(crate) mod eval;
pub(crate) mod layout;
pub(crate) mod leaf;
mod named;
pub(crate) mod places;
pub(crate) mod slots;
pub(crate) mod text;
pub(crate) mod tile;

use std::collections::BTreeMap;
use std::ops::{BitAnd, BitOr, Not};

pub use crate::error::ParseMaskError;
pub use block_index::{BlockIndexOptions, BlockIndices, BlockPooling, MAX_LISTED_BLOCKS};
pub use eval::Evaluator;
#[doc(hidden)]
pub use leaf::Random;
use leaf::{Differs, Tiles};
pub use leaf::{Leaf, MaskLeaf, MaskSample};
pub use tile::{TileClass, TileGrid};

use crate::auxiliary::{AuxSpec, AuxTensor};
use crate::custom::WgslFunction;
use crate::error::{Error, Result};
use crate::tensor::shape::Shape;

/// Which keys a query attends to.
///
/// ```
/// use wgpu_attention::Mask;
/// let decoder = Mask::causal() & Mask::KeyLengths;
/// assert_eq!(decoder.to_string(), "causal & key_lengths");
/// assert_eq!("causal & key_lengths".parse::<Mask>().unwrap(), decoder);
/// ```
///
/// Leaves without arguments are constants, [`Mask::KeyLengths`], the others functions, [`Mask::window`];
/// [`Mask::leaves`] lists them.
///
/// Where queries and keys differ in number, a query's own position among the keys is
/// `q_idx + (seq_len_kv − seq_len_q)`, as with a key-value cache: the last query stands at the last key.
/// [`Mask::causal_upper_left`] and [`Mask::causal_offset`] say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mask {
    /// One of [`Mask::leaves`], with its arguments.
    Leaf(Leaf),
    /// `self_only_if_alone(mask)`: what `mask` keeps, the query's own position only where `mask` keeps
    /// nothing else for it (Reformer, arXiv 2001.04451, §2, on causal masking with shared queries and keys).
    SelfOnlyIfAlone(Box<Mask>),
    /// `per_head(a, b, …)`: a mask for each head, or for each run of `num_heads / n` heads.
    PerHead(Vec<Mask>),
    /// `wgsl`: what a user-defined function keeps, `fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool`.
    /// It runs on the device alone: [`Evaluator`] and [`crate::reference`] refuse it.
    Wgsl(WgslFunction),
    /// Both.
    And(Box<Mask>, Box<Mask>),
    /// Either.
    Or(Box<Mask>, Box<Mask>),
    /// What the mask doesn't keep.
    Not(Box<Mask>),
}

impl Mask {
    /// What `self` keeps, the query's own position only where it keeps nothing else.
    #[must_use]
    pub fn self_only_if_alone(self) -> Self {
        Self::SelfOnlyIfAlone(Box::new(self))
    }

    /// The same expression whose leaves read data of their own: tensors with this number behind their names,
    /// `key_lengths_2`. As text it's the argument `data`. Number 1 stands for the names without a number.
    ///
    /// A leaf that appears twice reads the same data in both places, unless one of them has another number.
    ///
    /// ```
    /// use wgpu_attention::{Mask, AuxData};
    /// let mask = Mask::Documents & Mask::Documents.numbered(2);
    /// assert_eq!(mask.to_string(), "documents & documents(data=2)");
    /// let data = AuxData::new()
    ///     .document_ids([0, 0, 1, 1])
    ///     .with_numbered(2, AuxData::new().document_ids([5, 5, 5, 8]));
    /// ```
    #[must_use]
    pub fn numbered(self, number: u32) -> Self {
        let boxed = |mask: Box<Self>| Box::new(mask.numbered(number));
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.numbered(number)),
            Self::SelfOnlyIfAlone(inner) => Self::SelfOnlyIfAlone(boxed(inner)),
            Self::PerHead(masks) => {
                Self::PerHead(masks.into_iter().map(|mask| mask.numbered(number)).collect())
            }
            Self::Wgsl(custom) => Self::Wgsl(custom),
            Self::And(a, b) => Self::And(boxed(a), boxed(b)),
            Self::Or(a, b) => Self::Or(boxed(a), boxed(b)),
            Self::Not(inner) => Self::Not(boxed(inner)),
        }
    }

    /// The names of the auxiliary tensors that the mask reads, each once, in the order of [`Mask::leaves`].
    pub fn aux_tensors(&self) -> Vec<AuxTensor> {
        // Which tensors there are doesn't depend on the shape.
        let tensors = self.aux_specs(&Shape::new(1, 1, 1, 1));
        tensors.into_iter().map(|tensor| tensor.input).collect()
    }

    /// The auxiliary tensors that the mask reads, each once. Where leaves share one, it has the sizes that all of them
    /// take; calls refuse those that agree on none.
    pub fn aux_specs(&self, shape: &Shape) -> Vec<AuxSpec> {
        let mut tensors: Vec<AuxSpec> = Vec::new();
        for tensor in self.sorted_leaves().into_iter().flat_map(|leaf| leaf.tensors(shape)) {
            match tensors.iter_mut().find(|other| other.input == tensor.input) {
                Some(other) => {
                    if let Some(common) = other.common(&tensor) {
                        *other = common;
                    }
                }
                None => tensors.push(tensor),
            }
        }
        tensors
    }

    /// The leaves in the order of [`Mask::leaves`], those of the same kind from the left.
    fn sorted_leaves(&self) -> Vec<&Leaf> {
        let mut leaves = self.leaves_below();
        leaves.sort_by_key(|leaf| (leaf.rank(), leaf.number()));
        leaves
    }

    /// This node's leaves, from the left.
    fn leaves_below(&self) -> Vec<&Leaf> {
        match self {
            Self::Leaf(leaf) => vec![leaf],
            Self::SelfOnlyIfAlone(_)
            | Self::PerHead(_)
            | Self::Wgsl(_)
            | Self::And(..)
            | Self::Or(..)
            | Self::Not(_) => self.children().into_iter().flat_map(Self::leaves_below).collect(),
        }
    }

    /// The user-defined functions, from the left.
    pub(crate) fn customs(&self) -> Vec<&WgslFunction> {
        match self {
            Self::Wgsl(custom) => vec![custom],
            Self::Leaf(_)
            | Self::SelfOnlyIfAlone(_)
            | Self::PerHead(_)
            | Self::And(..)
            | Self::Or(..)
            | Self::Not(_) => self.children().into_iter().flat_map(Self::customs).collect(),
        }
    }

    /// Whether some leaf's tiles can be classed only by looking at its data.
    pub(crate) fn reads_tiles(&self) -> bool {
        !self.customs().is_empty()
            || self.leaves_below().iter().any(|leaf| leaf.spec().tiles() != Tiles::ClosedForm)
    }

    /// Whether bounds of some leaf's data class its tiles.
    pub(crate) fn has_bounds(&self) -> bool {
        self.leaves_below().iter().any(|leaf| leaf.spec().tiles() == Tiles::Bounds)
    }

    /// Along which dimensions the mask may differ, with tensors of these sizes.
    pub(crate) fn differs(&self, sizes: &BTreeMap<AuxTensor, Vec<usize>>) -> Differs {
        let own = match self {
            Self::Leaf(leaf) => leaf.differs(sizes),
            Self::Wgsl(_) => Differs { batch: true, heads: true },
            Self::PerHead(masks) => Differs { batch: false, heads: masks.len() > 1 },
            Self::SelfOnlyIfAlone(_) | Self::And(..) | Self::Or(..) | Self::Not(_) => {
                Differs::NOWHERE
            }
        };
        self.children().into_iter().fold(own, |differs, child| {
            let below = child.differs(sizes);
            Differs { batch: differs.batch | below.batch, heads: differs.heads | below.heads }
        })
    }

    fn children(&self) -> Vec<&Self> {
        match self {
            Self::And(a, b) | Self::Or(a, b) => vec![a, b],
            Self::Not(a) | Self::SelfOnlyIfAlone(a) => vec![a],
            Self::PerHead(masks) => masks.iter().collect(),
            Self::Leaf(_) | Self::Wgsl(_) => Vec::new(),
        }
    }

    /// Whether the numbers in the expression fit the shape.
    ///
    /// # Errors
    /// [`crate::Error::Operand`] that names the leaf.
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        self.check_nodes(shape)?;
        self.check_shared_tensors(shape)
    }

    fn check_nodes(&self, shape: &Shape) -> Result<()> {
        match self {
            Self::Leaf(leaf) => leaf.check(shape)?,
            Self::PerHead(masks) => {
                if masks.is_empty() || !shape.num_heads.is_multiple_of(masks.len()) {
                    let heads = shape.num_heads;
                    let expected = format!("a number of masks that divides num_heads = {heads}");
                    return Err(Error::operand("per_head", expected, masks.len()));
                }
            }
            Self::SelfOnlyIfAlone(_)
            | Self::Wgsl(_)
            | Self::And(..)
            | Self::Or(..)
            | Self::Not(_) => {}
        }
        self.children().into_iter().try_for_each(|child| child.check_nodes(shape))
    }

    /// Whether leaves that read the same tensor agree on its sizes.
    fn check_shared_tensors(&self, shape: &Shape) -> Result<()> {
        let mut seen: Vec<(&Leaf, AuxSpec)> = Vec::new();
        for leaf in self.leaves_below() {
            for tensor in leaf.tensors(shape) {
                let Some((other, first)) =
                    seen.iter_mut().find(|(_, other)| other.input == tensor.input)
                else {
                    seen.push((leaf, tensor));
                    continue;
                };
                let Some(common) = first.common(&tensor) else {
                    let own = leaf.numbered(leaf.number() + 1);
                    return Err(Error::operand(
                        tensor.input.name(),
                        format!("the sizes of `{other}`: for data of its own write `{own}`"),
                        format!("those of `{leaf}`"),
                    ));
                };
                *first = common;
            }
        }
        Ok(())
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
