//! A problem at random: whatever can be asked for together, in sizes off every tile.

use std::ops::RangeInclusive;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::mask::{Evaluator, Random};
use wgpu_attention::tensor::{Dtypes, KeySequences, QuerySequences, Sequences, Strides};
use wgpu_attention::{AuxData, Dtype, Layout, Mask, Problem, ScoreModifiers, Shape};

use super::learned::Learned;
use crate::backward::RandomUpstream;
use crate::fixture::Operands;
use crate::operands::DROPOUT_SEED;
use crate::sequences::Places;

/// Leaves that take any number as data.
const OF_ANY_NUMBERS: [&str; 5] =
    ["documents", "key_padding", "token_padding", "block_bidirectional", "buckets"];

/// A problem with operands, and what it is compared with.
pub(super) struct Drawn {
    /// Without the score function, which the reference can't evaluate.
    pub(super) plain: Problem,
    pub(super) problem: Problem,
    pub(super) operands: Operands,
    pub(super) upstream: RandomUpstream,
    pub(super) learned: Option<Learned>,
    pub(super) places: Places,
    pub(super) modifiers: Modifiers,
    pub(super) strides: [Strides; 4],
    pub(super) options: KernelOptions,
    /// Into how many windows the largest tensor is to go, about.
    pub(super) windows: Option<u64>,
    pub(super) batch_invariant: bool,
    pub(super) num_splits: Option<usize>,
    pub(super) partial_keys: bool,
    /// How the gradients are stored.
    pub(super) gradients: Dtype,
    /// Drawn on, for what is chosen of what serves.
    pub(super) rng: SmallRng,
}

/// The crate's own modifiers of scores, and their data beside the mask's.
pub(super) struct Modifiers {
    pub(super) score: ScoreModifiers,
    /// 1 where the bias is the same along a dimension.
    pub(super) bias_dims: [usize; 4],
    /// Of these sizes; none without a bias.
    pub(super) bias: Vec<f32>,
    /// ALiBi's, of all sequences or of each.
    pub(super) slopes: Vec<f32>,
    pub(super) data: AuxData,
}

impl Modifiers {
    pub(super) fn random(
        shape: &Shape,
        bias: Dtype,
        mut data: AuxData,
        rng: &mut SmallRng,
    ) -> Self {
        let dtype = bias;
        let modified = !one_in(rng, 3);
        let with = |rng: &mut SmallRng| modified && one_in(rng, 3);
        let mut score = ScoreModifiers::new().bias(with(rng)).alibi(with(rng)).sinks(with(rng));
        if with(rng) {
            score = score.softcap(rng.random_range(1.0..20.0));
        }
        let numbers = |len: usize, range: std::ops::Range<f32>, rng: &mut SmallRng| {
            (0..len).map(|_| rng.random_range(range.clone())).collect::<Vec<f32>>()
        };
        let bias_dims = [shape.batch, shape.num_heads, shape.seq_len_q, shape.seq_len_kv]
            .map(|dim| if one_in(rng, 4) { 1 } else { dim });
        let (mut bias, mut slopes) = (Vec::new(), Vec::new());
        if score.bias {
            bias = numbers(bias_dims.iter().product(), -2.0..2.0, rng);
            bias.iter_mut().for_each(|x| *x = dtype.round(*x));
            data = data.bias(bias_dims, bias.iter().copied());
        }
        if score.alibi {
            let batch = if one_in(rng, 2) { 1 } else { shape.batch };
            slopes = numbers(batch * shape.num_heads, 0.0..0.2, rng);
            data = data.alibi_slopes_per_sequence([batch, shape.num_heads], slopes.clone());
        }
        if score.sinks {
            data = data.sinks(numbers(shape.num_heads, -2.0..4.0, rng));
        }
        let data = data.dropout_seed(DROPOUT_SEED);
        Self { score, bias_dims, bias, slopes, data }
    }
}

/// What may be chosen about a device's kernels.
pub(super) fn kernel_options(rng: &mut SmallRng) -> KernelOptions {
    let mut options = KernelOptions::default();
    if one_in(rng, 3) {
        options = options.largest_tile_map(0);
    }
    if one_in(rng, 8) {
        options = options.most_work(10_000);
    }
    if one_in(rng, 8) {
        options = options.registers(64);
    }
    options
}

pub(super) fn one_in(rng: &mut SmallRng, times: u32) -> bool {
    rng.random_ratio(1, times)
}

fn shape(rng: &mut SmallRng) -> Shape {
    let (kv_heads, group) = (rng.random_range(1..=2), rng.random_range(1..=3));
    // Prefill, decoding, and rows that are summed in segments.
    let (q, kv) = match rng.random_range(0..10) {
        0..6 => (rng.random_range(0..80), rng.random_range(1..150)),
        6..9 => (rng.random_range(1..=16), rng.random_range(1..700)),
        _ => (rng.random_range(1..=3), rng.random_range(4_000..9_000)),
    };
    let dim = *[8, 19, 20, 32, 64].choose(rng).unwrap();
    let dim_v = if one_in(rng, 4) { *[1, 7, 24, 40].choose(rng).unwrap() } else { dim };
    let batch = rng.random_range(1..=if kv > 1_000 { 1 } else { 3 });
    Shape::new(batch, kv_heads * group, q, dim)
        .num_kv_heads(kv_heads)
        .seq_len_kv(kv)
        .head_dim_v(dim_v)
}

/// The lengths of each sequence, and the forms in which they lie.
fn sequences(shape: Shape, rng: &mut SmallRng) -> (Shape, Vec<(usize, usize)>) {
    let length = |most: usize, rng: &mut SmallRng| match rng.random_range(0..6) {
        0 => 0,
        1 | 2 => most,
        _ => rng.random_range(0..=most),
    };
    let drawn = rng.random_range(0..12);
    let mut lengths: Vec<(usize, usize)> = (0..shape.batch)
        .map(|_| (length(shape.seq_len_q, rng), length(shape.seq_len_kv, rng)))
        .collect();
    let total = |of: fn(&(usize, usize)) -> usize| lengths.iter().map(of).sum::<usize>();
    let q = match drawn % 3 {
        _ if drawn < 4 => QuerySequences::Uniform,
        0 => QuerySequences::Uniform,
        1 => QuerySequences::Packed { total: total(|x| x.0) },
        _ => QuerySequences::LeftPadded,
    };
    let block_size = *[1, 5, 16, 24].choose(rng).unwrap();
    let blocks_per_sequence = shape.seq_len_kv.div_ceil(block_size);
    let kv = match drawn {
        0..4 => KeySequences::Uniform,
        4 | 5 => KeySequences::Packed { total: total(|x| x.1) },
        6 => KeySequences::Cached { left_padded: true },
        7 => KeySequences::Cached { left_padded: false },
        8 | 9 => KeySequences::Ring,
        _ => KeySequences::Paged {
            block_size,
            blocks: shape.batch * blocks_per_sequence + rng.random_range(0..3),
            blocks_per_sequence,
        },
    };
    for (q_len, kv_len) in &mut lengths {
        if q == QuerySequences::Uniform {
            *q_len = shape.seq_len_q;
        }
        if kv == KeySequences::Uniform {
            *kv_len = shape.seq_len_kv;
        }
    }
    (shape.sequences(Sequences { q, kv }), lengths)
}

/// An expression of leaves, each with data of its own.
pub(super) fn mask(shape: &Shape, rng: &mut SmallRng) -> (Mask, AuxData) {
    let mut data = AuxData::new();
    let mut leaves = 0;
    let mask = expression(shape, 3, &mut data, &mut leaves, rng);
    (mask, data)
}

fn expression(
    shape: &Shape,
    depth: u32,
    data: &mut AuxData,
    leaves: &mut u32,
    rng: &mut SmallRng,
) -> Mask {
    let drawn = if depth == 0 || *leaves > 4 { 0 } else { rng.random_range(0..9) };
    let mut below = |rng: &mut SmallRng| expression(shape, depth - 1, data, leaves, rng);
    match drawn {
        4 => below(rng) & below(rng),
        5 => below(rng) | below(rng),
        6 => !below(rng),
        7 => {
            let divisors = (1..=4).filter(|n| shape.num_heads.is_multiple_of(*n));
            let count = *divisors.collect::<Vec<_>>().choose(rng).unwrap();
            Mask::PerHead((0..count).map(|_| below(rng)).collect())
        }
        8 => below(rng).self_only_if_alone(),
        _ => {
            *leaves += 1;
            leaf(shape, data, *leaves, rng)
        }
    }
}

fn leaf(shape: &Shape, data: &mut AuxData, number: u32, rng: &mut SmallRng) -> Mask {
    let all: Vec<_> = Mask::leaves()
        .filter(|leaf| leaf.name() != "tree" || shape.seq_len_kv >= shape.seq_len_q)
        .collect();
    let kind = all.choose(rng).unwrap();
    let extreme = OF_ANY_NUMBERS.contains(&kind.name()) && one_in(rng, 3);
    let mut draw = |range: RangeInclusive<i64>| match extreme && one_in(rng, 2) {
        true => *[i32::MIN, i32::MIN + 1, -1, 0, i32::MAX].choose(rng).unwrap() as i64,
        false => rng.random_range(range),
    };
    let (mask, own) = kind.random(shape, &mut Random::new(&mut draw));
    *data = std::mem::take(data).with_numbered(number, own);
    mask.numbered(number)
}

/// Strides of `dims`, perhaps with gaps between rows, heads and sequences.
fn strides(layout: Layout, gaps: bool, dims: [usize; 4], rng: &mut SmallRng) -> Strides {
    if !gaps {
        return layout.strides(dims);
    }
    let [batch, heads, rows, dim] = dims;
    let gap = |rng: &mut SmallRng| *[0, 0, 4, 3].choose(rng).unwrap();
    let step = if one_in(rng, 6) { 2 } else { 1 };
    let mut inner = dim * step + gap(rng);
    let mut axis = |count: usize, rng: &mut SmallRng| {
        let own = inner;
        inner = own * count.max(1) + gap(rng);
        own
    };
    let (head, seq, batch) = match (layout, one_in(rng, 4)) {
        (Layout::Bhsd, false) => {
            let seq = axis(rows, rng);
            (axis(heads, rng), seq, axis(batch, rng))
        }
        (Layout::Bshd, false) => {
            let head = axis(heads, rng);
            (head, axis(rows, rng), axis(batch, rng))
        }
        // Sequences side by side.
        _ => {
            let batch = axis(batch, rng);
            let seq = axis(rows, rng);
            (axis(heads, rng), seq, batch)
        }
    };
    Strides { batch, head, seq, dim: step }
}

impl Drawn {
    pub(super) fn random(seed: u64) -> Self {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let (shape, lengths) = sequences(shape(rng), rng);
        let places = Places::random(&shape, &lengths, rng);
        let (mask, of_mask) = mask(&shape, rng);
        let dtype = |rng: &mut SmallRng| *[Dtype::F16, Dtype::Bf16].choose(rng).unwrap();
        let mut dtypes = Dtypes::default();
        match rng.random_range(0..6) {
            0 => dtypes = Dtypes::from(dtype(rng)),
            1 => dtypes = dtypes.k(dtype(rng)).v(dtype(rng)),
            2 => dtypes = dtypes.q(dtype(rng)).bias(dtype(rng)),
            _ => {}
        }
        let data = of_mask.with_numbered(1, places.data.clone());
        let modifiers = Modifiers::random(&shape, dtypes.bias, data, rng);
        let score = modifiers.score;
        let with_factor = score.softcap.is_none() && one_in(rng, 2);
        let learned = one_in(rng, 2).then(|| Learned::random(&shape, with_factor, rng));
        let mut data = modifiers.data.clone();
        if let Some(learned) = &learned {
            data = learned.add_to(data);
        }

        let layout = *[Layout::Bhsd, Layout::Bshd].choose(rng).unwrap();
        let gaps = one_in(rng, 3);
        let dims = [shape.q_dims(), shape.k_dims(), shape.v_dims(), shape.o_dims()];
        let strides = dims.map(|dims| strides(layout, gaps, dims, rng));
        let mut problem = Problem::new(shape)
            .mask(mask.clone())
            .score(score)
            .dtypes(dtypes)
            .layout(layout)
            .aux_shape(data.shape());
        if gaps {
            problem = problem
                .q_strides(strides[0])
                .k_strides(strides[1])
                .v_strides(strides[2])
                .o_strides(strides[3]);
        }
        if one_in(rng, 6) {
            problem = problem.scale(*[0.0, -0.3, 0.7].choose(rng).unwrap());
        }
        if one_in(rng, 4) {
            problem = problem.dropout(*[0.1, 0.5].choose(rng).unwrap());
        }

        // What belongs to no sequence, or is kept by nobody, is no number.
        let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
        let spans = problem.spans().unwrap();
        let mut tensors = spans.map(|span| vec![f32::NAN; span]);
        let hostile = one_in(rng, 2);
        let group = shape.group_size();
        for b in 0..shape.batch {
            for h in 0..shape.num_heads {
                for &row in &places.q[b] {
                    fill(&mut tensors[0], strides[0], (row, h), shape.head_dim, dtypes.q, rng);
                    fill(&mut tensors[3], strides[3], (row, h), shape.head_dim_v, dtypes.o, rng);
                }
            }
            for h in 0..shape.num_kv_heads {
                for (kv_idx, &row) in places.kv[b].iter().enumerate() {
                    let mut rows = (h * group..(h + 1) * group)
                        .flat_map(|h| (0..places.q[b].len()).map(move |q_idx| (h, q_idx)));
                    if hostile && !rows.any(|(h, q_idx)| evaluator.keep(b, h, q_idx, kv_idx)) {
                        continue;
                    }
                    fill(&mut tensors[1], strides[1], (row, h), shape.head_dim, dtypes.k, rng);
                    fill(&mut tensors[2], strides[2], (row, h), shape.head_dim_v, dtypes.v, rng);
                }
            }
        }
        let mut dlse = vec![f32::NAN; shape.lse_len().unwrap()];
        let rows = shape.q_rows()[1];
        for (b, h) in (0..shape.batch).flat_map(|b| (0..shape.num_heads).map(move |h| (b, h))) {
            for [batch, row] in &places.q[b] {
                dlse[(batch * shape.num_heads + h) * rows + row] = rng.random_range(-1.0..1.0);
            }
        }
        let [q, k, v, dout] = tensors;
        let plain = problem.clone();
        if let Some(learned) = &learned {
            problem = problem.score_mod(learned.function());
        }
        Self {
            plain,
            problem,
            operands: Operands { q, k, v, mask: data },
            upstream: RandomUpstream { dout, dlse },
            learned,
            places,
            modifiers,
            strides,
            options: kernel_options(rng),
            windows: one_in(rng, 2).then(|| rng.random_range(1..8)),
            batch_invariant: one_in(rng, 6),
            num_splits: one_in(rng, 4).then(|| *[1, 3, 128].choose(rng).unwrap()),
            partial_keys: one_in(rng, 8),
            gradients: if one_in(rng, 5) { dtype(rng) } else { Dtype::F32 },
            rng: rng.clone(),
        }
    }

    /// Where a component of a query lies in q.
    pub(super) fn q_place(&self, b: usize, h: usize, q_idx: usize, d: usize) -> usize {
        place(self.strides[0], self.places.q[b][q_idx], h, d)
    }
}

fn place(strides: Strides, [batch, row]: [usize; 2], h: usize, d: usize) -> usize {
    batch * strides.batch + h * strides.head + row * strides.seq + d * strides.dim
}

fn fill(
    tensor: &mut [f32],
    strides: Strides,
    (row, h): ([usize; 2], usize),
    dim: usize,
    dtype: Dtype,
    rng: &mut SmallRng,
) {
    for d in 0..dim {
        tensor[place(strides, row, h, d)] = dtype.round(rng.random_range(-2.0..2.0));
    }
}
