//! The leaves of mask expressions: a file each, with everything about it, and the table [`LEAVES`].
//!
//! CONTRIBUTING.md says how to add one.

mod all;
mod arguments;
mod block_bidirectional;
mod block_sparse;
mod buckets;
mod causal;
mod chunk;
mod column_ranges;
mod dense;
mod dilated;
mod documents;
mod global;
mod key_lengths;
mod key_padding;
mod not_self;
mod prefix;
mod random;
mod sample;
mod strided;
#[cfg(test)]
mod tests;
mod token_padding;
mod tree;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

pub(crate) use arguments::{Argument, Kind, Value, Values};
pub use random::Random;
pub use sample::MaskSample;

use super::slots::Slot;
use super::{Mask, places::Places};
use crate::auxiliary::{AuxData, AuxSpec, AuxTensor};
use crate::error::{Error, Result};
use crate::tensor::shape::Shape;

/// Every leaf, in the order in which help and messages list them.
pub(crate) const LEAVES: &[&dyn LeafSpec] = &[
    &all::All,
    &causal::Causal,
    &window::Window,
    &key_lengths::KeyLengths,
    &key_padding::KeyPadding,
    &token_padding::TokenPadding,
    &prefix::Prefix,
    &documents::Documents,
    &not_self::NotSelf,
    &dense::Dense,
    &chunk::Chunk,
    &dilated::Dilated,
    &strided::Strided,
    &global::Global,
    &block_bidirectional::BlockBidirectional,
    &block_sparse::BlockSparse,
    &buckets::Buckets,
    &column_ranges::ColumnRanges,
    &tree::Tree,
];

/// Everything about a leaf. Only methods whose default is right for every leaf that doesn't say otherwise have one.
pub(crate) trait LeafSpec: fmt::Debug + Send + Sync {
    /// The name in expressions.
    fn name(&self) -> &'static str;

    /// What stands in parentheses after the name.
    fn arguments(&self) -> &'static [Argument] {
        &[]
    }

    /// How it is written and what it keeps, for the command line's help; one pair for each form.
    fn help(&self) -> &'static [(&'static str, &'static str)];

    /// The paper or the model that has it, in Markdown; empty where there is none to name.
    fn source(&self) -> &'static str {
        ""
    }

    /// The auxiliary tensors that it reads, by the names of their first appearance. Their names depend on nothing.
    fn tensors(&self, leaf: &Leaf, shape: &Shape) -> Vec<AuxSpec>;

    /// Whether the mask may differ from one sequence to another and from one head to another, with tensors of these sizes.
    /// Where it says no, all of them share what is made for the first: the tile map, the materialized mask.
    fn differs(&self, sizes: &Sizes<'_>) -> Differs;

    /// What the kernels read about this leaf at run time, in the order in which its WGSL numbers it.
    fn slots(&self, leaf: &Leaf) -> Vec<Slot>;

    /// Whether a cell is kept: the definition that the WGSL is tested against.
    fn keep(&self, leaf: &Leaf, cell: &Cell<'_>) -> bool;

    /// Its WGSL.
    fn shader(&self) -> Shader;

    /// How its tiles are classed.
    fn tiles(&self) -> Tiles;

    /// Whether its WGSL has `NAME_next`, too: the next key that some rows may keep, for leaves that keep few tiles far apart.
    fn jumps(&self) -> bool {
        false
    }

    /// Whether it can be computed for a shape, beyond what its arguments and tensors say.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the leaf.
    fn check(&self, _shape: &Shape) -> Result<()> {
        Ok(())
    }

    /// Expressions with data, drawn in the gallery and run by the tests; one at least.
    fn samples(&self) -> Vec<MaskSample>;

    /// Data at random for every tensor that it reads, mostly valid.
    fn random_data(&self, leaf: &Leaf, shape: &Shape, random: &mut Random<'_>) -> AuxData;
}

/// A leaf's WGSL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shader {
    /// It keeps every cell.
    Everything,
    /// `shaders/mask/NAME.wgsl` with `NAME_keep`, `NAME_tile`, `NAME_hull`, and `NAME_next` where it jumps.
    Functions { name: &'static str, source: &'static str },
}

/// `shaders/mask/NAME.wgsl`.
macro_rules! shader {
    ($name:literal) => {
        $crate::mask::leaf::Shader::Functions {
            name: $name,
            source: include_str!(concat!("../../../shaders/mask/", $name, ".wgsl")),
        }
    };
}
use shader;

/// How the classes of a leaf's tiles are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// By a few comparisons, whenever a kernel asks: `NAME_tile` is cheap.
    ClosedForm,
    /// By what `words_range` says of its data over the tile's rows and columns, for tiles of any size: in the tile map, or,
    /// where that would be too large, whenever a kernel asks.
    Bounds,
    /// By looking at cells: in the tile map, without which all of its tiles are PARTIAL.
    Map,
}

/// Along which dimensions a mask may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Differs {
    pub(crate) batch: bool,
    pub(crate) heads: bool,
}

impl Differs {
    /// The same for every sequence and head.
    pub(crate) const NOWHERE: Self = Self { batch: false, heads: false };
    /// The same for the heads of a sequence.
    pub(crate) const BY_BATCH: Self = Self { batch: true, heads: false };
}

/// The sizes of the tensors that a leaf reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes<'a> {
    pub(crate) of_all: &'a BTreeMap<AuxTensor, Vec<usize>>,
    pub(crate) number: u32,
}

impl Sizes<'_> {
    /// The size of a tensor's dimension.
    pub(crate) fn size(&self, input: AuxTensor, dim: usize) -> usize {
        let sizes = self.of_all.get(&input.numbered(self.number));
        sizes.and_then(|sizes| sizes.get(dim)).copied().unwrap_or(1)
    }
}

/// A cell that the CPU asks a leaf about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell<'a> {
    pub(crate) b: usize,
    pub(crate) h: usize,
    /// Query and key, counted from the sequence's own first ones.
    pub(crate) q_idx: usize,
    pub(crate) kv_idx: usize,
    /// The position among the keys at which query 0 stands.
    pub(crate) diagonal: i64,
    pub(crate) shape: &'a Shape,
    pub(crate) data: &'a AuxData,
    /// Which of the leaf's data is read.
    pub(crate) number: u32,
}

impl<'a> Cell<'a> {
    pub(crate) fn new(
        [b, h, q_idx, kv_idx]: [usize; 4],
        places: &Places<'_>,
        shape: &'a Shape,
        data: &'a AuxData,
    ) -> Self {
        Self { b, h, q_idx, kv_idx, diagonal: places.diagonal(b), shape, data, number: 1 }
    }

    /// The query's index. Sequence lengths are below 2^29 ([`Shape::validate`]), so `i64` holds every sum.
    pub(crate) const fn q(&self) -> i64 {
        self.q_idx as i64
    }

    /// The key's index.
    pub(crate) const fn kv(&self) -> i64 {
        self.kv_idx as i64
    }

    /// The query's own position among the keys; negative before the first.
    pub(crate) const fn own(&self) -> i64 {
        self.q() + self.diagonal
    }

    /// An element of a tensor `[batch]`.
    pub(crate) fn of_sequence(&self, input: AuxTensor) -> i32 {
        self.data.int(input.numbered(self.number), self.b)
    }

    /// The query's element of a tensor `[batch, seq_len_q]`.
    pub(crate) fn of_query(&self, input: AuxTensor) -> i32 {
        self.of_other_query(input, self.q_idx)
    }

    /// Another query's element.
    pub(crate) fn of_other_query(&self, input: AuxTensor, q_idx: usize) -> i32 {
        self.data.int(input.numbered(self.number), self.b * self.shape.seq_len_q + q_idx)
    }

    /// The key's element of a tensor `[batch, seq_len_kv]`.
    pub(crate) fn of_key(&self, input: AuxTensor) -> i32 {
        self.data.int(input.numbered(self.number), self.b * self.shape.seq_len_kv + self.kv_idx)
    }

    /// An element of a tensor `[1]`.
    pub(crate) fn single(&self, input: AuxTensor) -> i32 {
        self.data.int(input.numbered(self.number), 0)
    }

    /// An element of a tensor that was given with its sizes, those of 1 broadcast.
    pub(crate) fn word(&self, input: AuxTensor, cell: [usize; 4]) -> u32 {
        self.data.word(input.numbered(self.number), cell)
    }

    /// The sizes of such a tensor.
    pub(crate) fn sizes(&self, input: AuxTensor) -> &'a [usize] {
        self.data.sizes(input.numbered(self.number)).unwrap_or_default()
    }
}

/// A leaf of an expression: which, with which arguments, reading which data.
///
/// It is made by [`Mask`]'s constructors and by parsing.
#[derive(Clone, Copy)]
pub struct Leaf {
    spec: &'static dyn LeafSpec,
    values: Values,
    number: u32,
}

impl Leaf {
    /// A leaf without arguments, or with the first choice of each.
    pub(crate) const fn plain(spec: &'static dyn LeafSpec) -> Self {
        Self { spec, values: [Value::Choice(0); arguments::MOST], number: 1 }
    }

    /// A leaf with arguments, as many as it has.
    pub(crate) const fn with<const N: usize>(
        spec: &'static dyn LeafSpec,
        values: [Value; N],
    ) -> Self {
        let mut leaf = Self::plain(spec);
        let mut at = 0;
        while at < N {
            leaf.values[at] = values[at];
            at += 1;
        }
        leaf
    }

    /// The same with data of its own; what reads no data stays as it is.
    pub(crate) fn numbered(self, number: u32) -> Self {
        let number = if self.reads_data() { number.max(1) } else { 1 };
        Self { number, ..self }
    }

    pub(crate) fn spec(&self) -> &'static dyn LeafSpec {
        self.spec
    }

    /// The name, without arguments.
    pub fn name(&self) -> &'static str {
        self.spec.name()
    }

    /// Which of its data it reads, from 1 on.
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    pub(crate) const fn values(&self) -> &Values {
        &self.values
    }

    /// An argument that is a number.
    pub(crate) const fn count(&self, argument: usize) -> i64 {
        match self.values[argument] {
            Value::Count(count) => count,
            Value::Unbounded | Value::Choice(_) => 0,
        }
    }

    /// An argument that is a number or `inf`.
    pub(crate) const fn bound(&self, argument: usize) -> Option<i64> {
        match self.values[argument] {
            Value::Count(count) => Some(count),
            Value::Unbounded | Value::Choice(_) => None,
        }
    }

    /// Whether it has auxiliary tensors.
    pub(crate) fn reads_data(&self) -> bool {
        // Which tensors there are depends on nothing.
        !self.spec.tensors(self, &Shape::new(1, 1, 1, 1)).is_empty()
    }

    /// Its auxiliary tensors, under their numbers.
    pub(crate) fn tensors(&self, shape: &Shape) -> Vec<AuxSpec> {
        let mut tensors = self.spec.tensors(self, shape);
        for tensor in &mut tensors {
            tensor.input = tensor.input.numbered(self.number);
        }
        tensors
    }

    /// Its slots, which name tensors by their numbers.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.spec.slots(self).into_iter().map(|slot| slot.numbered(self.number)).collect()
    }

    pub(crate) fn differs(&self, of_all: &BTreeMap<AuxTensor, Vec<usize>>) -> Differs {
        self.spec.differs(&Sizes { of_all, number: self.number })
    }

    pub(crate) fn keep(&self, cell: &Cell<'_>) -> bool {
        self.spec.keep(self, &Cell { number: self.number, ..*cell })
    }

    /// Whether its arguments and the shape are ones that it can be computed for.
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        for (argument, value) in self.spec.arguments().iter().zip(self.values) {
            if let (Kind::Count { least } | Kind::Bound { least }, Value::Count(found)) =
                (argument.kind, value)
                && found < i64::from(least)
            {
                let operand = format!("{}'s {}", self.name(), argument.name);
                return Err(Error::operand(operand, format!("at least {least}"), found));
            }
        }
        self.spec.check(shape)
    }

    /// Its place in [`LEAVES`].
    pub(crate) fn rank(&self) -> usize {
        LEAVES.iter().position(|spec| spec.name() == self.name()).unwrap_or(LEAVES.len())
    }
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.values == other.values && self.number == other.number
    }
}

impl Eq for Leaf {}

impl Hash for Leaf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.name(), &self.values, self.number).hash(state);
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A kind of leaf: how it is written, what it keeps, and examples of it. [`Mask::leaves`] lists them.
///
/// ```
/// use wgpu_attention::Mask;
/// let chunk = Mask::leaves().find(|leaf| leaf.name() == "chunk").unwrap();
/// assert_eq!(chunk.help()[0].0, "chunk(SIZE)");
/// assert_eq!(chunk.samples()[0].mask.to_string(), "chunk(6)");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct MaskLeaf(&'static dyn LeafSpec);

impl MaskLeaf {
    /// The name in expressions.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// How it is written and what it keeps, for each of its forms.
    pub fn help(&self) -> &'static [(&'static str, &'static str)] {
        self.0.help()
    }

    /// The paper or the model that has it, in Markdown; empty where there is none to name.
    pub fn source(&self) -> &'static str {
        self.0.source()
    }

    /// Whether it reads auxiliary tensors.
    pub fn reads_data(&self) -> bool {
        Leaf::plain(self.0).reads_data()
    }

    /// The names of the tensors that it reads, with the other names that they may have in files.
    pub fn tensor_names(&self) -> Vec<String> {
        let tensors = Leaf::plain(self.0).tensors(&Shape::new(1, 1, 1, 1));
        tensors.iter().flat_map(|tensor| tensor.names().collect::<Vec<_>>()).collect()
    }

    /// Examples with data.
    pub fn samples(&self) -> Vec<MaskSample> {
        self.0.samples()
    }

    /// A leaf of this kind with arguments and data at random for a shape, for tests and fuzzing. Only a source of numbers
    /// that leaves its ranges makes what a call would refuse.
    #[doc(hidden)]
    pub fn random(&self, shape: &Shape, random: &mut Random<'_>) -> (Mask, AuxData) {
        let mut leaf = Leaf::plain(self.0);
        for (argument, value) in self.0.arguments().iter().zip(&mut leaf.values) {
            *value = argument.random(random);
        }
        let data = self.0.random_data(&leaf, shape, random);
        (Mask::Leaf(leaf), data)
    }
}

impl Mask {
    /// Every kind of leaf, in the order in which help lists them.
    pub fn leaves() -> impl Iterator<Item = MaskLeaf> {
        LEAVES.iter().map(|&spec| MaskLeaf(spec))
    }
}
