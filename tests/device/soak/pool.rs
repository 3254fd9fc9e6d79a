//! What decides which pipelines a call needs: few enough of it that thousands of calls share them.

use std::collections::HashSet;
use std::sync::LazyLock;

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{BackwardPlan, Dtype, Kernels, Problem, Shape};

use crate::fixture::{ATTENTION, serving};

const MASKS: [&str; 8] = [
    "all",
    "causal",
    "window(9,3)",
    "causal & key_lengths",
    "documents & causal",
    "prefix | causal",
    "dense",
    "!key_padding | global(2)",
];
/// Of sequences, whose data is made for each alone: positions decide. They come first among the masks.
const POSITIONS: usize = 3;
const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
/// Of vectors of four and not, with and without room to spare in the kernels.
const DIMS: [usize; 3] = [8, 19, 64];

/// How sequences lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A batch of equal sequences.
    Dense,
    /// Sequences one behind the other.
    Packed,
    /// Such queries over a cache.
    Cached,
    /// Few queries of equal sequences.
    Decode,
    /// The same over a cache.
    DecodeCached,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Dense, Self::Packed, Self::Cached, Self::Decode, Self::DecodeCached];

    pub(super) const fn is_decode(self) -> bool {
        matches!(self, Self::Decode | Self::DecodeCached)
    }

    pub(super) const fn packs_q(self) -> bool {
        matches!(self, Self::Packed | Self::Cached)
    }

    /// Whether each sequence has lengths, and the data, of its own.
    pub(super) const fn has_sequences(self) -> bool {
        !matches!(self, Self::Dense | Self::Decode)
    }
}

/// One of the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Structure {
    pub(super) kind: Kind,
    pub(super) mask: &'static str,
    pub(super) dtype: Dtype,
    pub(super) dim: usize,
    /// Whether the queries are more than go into the smallest blocks.
    pub(super) many_queries: bool,
    pub(super) forward: ForwardKernel,
    /// Whether decode's keys are split.
    pub(super) is_split: bool,
    /// What makes the gradients, unless it's decode.
    pub(super) backward: Option<BackwardKernel>,
    /// Which of each kind of choice it is, where there is one.
    choices: [Option<usize>; CHOICES.len()],
}

/// How many there are to choose from: forms, masks, types, row lengths, queries, kernels, splits, kernels of gradients.
const CHOICES: [usize; 8] = [
    Kind::ALL.len(),
    MASKS.len(),
    DTYPES.len(),
    DIMS.len(),
    2,
    ForwardKernel::ALL.len(),
    2,
    BackwardKernel::ALL.len(),
];

/// Two choices, by their places and numbers.
type Pair = [(usize, usize); 2];

impl Structure {
    /// The structure of these choices, if they go together.
    fn of(choices: [usize; CHOICES.len()]) -> Option<Self> {
        let [kind, mask, dtype, dim, queries, forward, splits, backward] = choices;
        let (kind, forward) = (Kind::ALL[kind], ForwardKernel::ALL[forward]);
        let decodes = kind.is_decode();
        let go_together = forward.is_decode() == decodes
            && (mask < POSITIONS || !kind.has_sequences())
            && if decodes { backward == 0 } else { splits == 0 };
        let mut choices = choices.map(Some);
        choices[if decodes { 7 } else { 6 }] = None;
        go_together.then(|| Self {
            kind,
            mask: MASKS[mask],
            dtype: DTYPES[dtype],
            dim: DIMS[dim],
            many_queries: queries > 0,
            forward,
            is_split: splits > 0,
            backward: (!decodes).then(|| BackwardKernel::ALL[backward]),
            choices,
        })
    }

    fn pairs(&self) -> impl Iterator<Item = Pair> {
        let choice = |at: usize| Some((at, self.choices[at]?));
        let before = move |a: usize| (0..a).filter_map(move |b| Some([choice(a)?, choice(b)?]));
        (0..CHOICES.len()).flat_map(before)
    }
}

/// Structures in which each pair of choices that goes together occurs: of a form and a mask, of a mask and a kernel, of a
/// kernel and a type, and so on.
pub(super) static POOL: LazyLock<Vec<Structure>> = LazyLock::new(|| covering(&all()));

/// The one that has most of the missing pairs, again and again.
fn covering(all: &[Structure]) -> Vec<Structure> {
    let mut missing: HashSet<Pair> = all.iter().flat_map(Structure::pairs).collect();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let new = |one: &&Structure| one.pairs().filter(|pair| missing.contains(pair)).count();
        // Of equals the first, so that the pool is always the same.
        let best = all.iter().rev().max_by_key(new).expect("each pair is some structure's");
        best.pairs().for_each(|pair| {
            missing.remove(&pair);
        });
        chosen.push(*best);
    }
    chosen
}

/// Everything that goes together and that this device has the kernels for.
fn all() -> Vec<Structure> {
    let of = |mut number: usize| {
        Structure::of(CHOICES.map(|count| {
            let choice = number % count;
            number /= count;
            choice
        }))
    };
    let structures: Vec<Structure> = (0..CHOICES.into_iter().product()).filter_map(of).collect();
    // Which kernels serve is a matter of row lengths and types.
    let alone = |dim, dtype| Problem::new(Shape::new(1, 2, 4, dim)).dtypes(Dtypes::from(dtype));
    let mut all = Vec::new();
    for dim in DIMS {
        let makes = |kernel: &BackwardKernel| makes_gradients(&alone(dim, Dtype::F32), *kernel);
        let backward: Vec<BackwardKernel> = BackwardKernel::ALL.into_iter().filter(makes).collect();
        for dtype in DTYPES {
            let forward = [false, true].map(|decode| serving(&alone(dim, dtype), decode)).concat();
            all.extend(structures.iter().filter(|one| {
                (one.dim, one.dtype) == (dim, dtype)
                    && forward.contains(&one.forward)
                    && one.backward.is_none_or(|kernel| backward.contains(&kernel))
            }));
        }
    }
    all
}

/// Whether a kernel makes these gradients; tried apart, so that the calls' pipelines aren't counted with these.
fn makes_gradients(problem: &Problem, kernel: BackwardKernel) -> bool {
    let options = BackwardOptions::default().kernel(kernel);
    let kernels = Kernels::new(ATTENTION.device(), &Default::default());
    BackwardPlan::new(&kernels, problem, &options).is_ok()
}
