//! Masks whose tiles are classed by bounds of their data, where a map of them would be too large.

use std::sync::LazyLock;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::mask::{Evaluator, TileClass, TileGrid};
use wgpu_attention::plan::{BackwardOptions, PlanOptions, TileOptions};
use wgpu_attention::{
    AttentionPlan, AuxData, Inputs, Mask, Problem, RunOptions, Session, Shape, reference,
};

use crate::backward::{self, RandomUpstream, assert_all_close};
use crate::fixture::{ATTENTION, Operands, is_brief, kernels, limited_with, mask_data, serving};
use crate::masks::check_tiles_on;
use crate::tolerance::{assert_close, naive, naive_gradients};

/// A device on which no map of tiles is made where bounds do.
pub(crate) static BY_BOUNDS: LazyLock<Session> =
    LazyLock::new(|| limited_with(KernelOptions::default().largest_tile_map(0), |_| ()));

/// Every leaf that has bounds, alone and beside what has none: four share a kernel, each in a head of its own.
const MASKS: [&str; 3] = [
    "per_head(documents, key_padding, token_padding & causal, column_ranges & causal)",
    "per_head(block_bidirectional | causal, buckets, !documents & window(90,3), key_padding & dense)",
    "per_head(documents & causal, !key_padding, documents | documents(data=2), self_only_if_alone(documents & !causal))",
];

/// Ids in runs and one by one, in order and not, from the least to the greatest that there are.
fn ids(rng: &mut Xoshiro256PlusPlus, rows: usize, len: usize, order: usize) -> Vec<i32> {
    const IDS: [i32; 6] = [i32::MIN, -7, -1, 0, 5, i32::MAX];
    let mut all = Vec::with_capacity(rows * len);
    for _ in 0..rows {
        let mut row: Vec<i32> = Vec::with_capacity(len);
        while row.len() < len {
            let run = if order == 2 { 1 } else { rng.random_range(1..120) };
            row.extend(vec![IDS[rng.random_range(0..6)]; run]);
        }
        row.truncate(len);
        if order == 0 {
            row.sort_unstable();
        }
        all.extend(row);
    }
    all
}

/// Data for all of [`MASKS`], in one of three orders: sorted, in runs, mixed.
fn data(shape: &Shape, seed: u64, order: usize) -> AuxData {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (batch, keys) = (shape.batch, shape.seq_len_kv);
    let documents = |rng: &mut Xoshiro256PlusPlus| {
        let q = ids(rng, batch, shape.seq_len_q, order);
        AuxData::new().document_ids_q_kv(q, ids(rng, batch, keys, order))
    };
    let blocks = |rng: &mut Xoshiro256PlusPlus| {
        let q = ids(rng, batch, shape.seq_len_q, order);
        AuxData::new().block_ids_q_kv(q, ids(rng, batch, keys, order))
    };
    let flags = ids(&mut rng, batch, keys, order).into_iter().map(|id| id > 0);
    let flags: Vec<bool> = flags.collect();
    let tokens = ids(&mut rng, batch, keys, order);
    let buckets = ids(&mut rng, 2 * batch, keys, order);
    mask_data(shape, seed)
        .key_padding(flags)
        .token_ids(tokens, -1)
        .bucket_ids([batch, 1, 2, keys], buckets)
        .with_numbered(1, documents(&mut rng))
        .with_numbered(1, blocks(&mut rng))
        .with_numbered(2, documents(&mut rng))
}

#[test]
fn every_leaf_by_bounds_is_what_the_cpu_says() {
    // From words to three levels of bounds.
    let shapes = [
        Shape::new(2, 4, 37, 8).seq_len_kv(90).num_kv_heads(2),
        Shape::new(1, 2, 70, 8).seq_len_kv(5_000),
    ];
    for shape in &shapes {
        for (seed, mask) in (0..).zip(
            "documents|key_padding|token_padding|block_bidirectional|buckets|column_ranges|tree"
                .split('|'),
        ) {
            let mask: Mask = mask.parse().unwrap();
            for order in 0..3 {
                let data = data(shape, seed, order);
                for (block_q, block_kv) in [(4, 3), (32, 64), (70, 600), (9, 5_000)] {
                    let grid = TileGrid { block_q, block_kv };
                    check_tiles_on(&BY_BOUNDS, &mask, shape, &data, grid);
                }
            }
        }
    }
}

#[test]
fn column_ranges_in_every_form_by_bounds() {
    let shape = Shape::new(2, 2, 120, 8).seq_len_kv(300);
    for (mask, bounds) in [
        ("column_ranges", 1),
        ("column_ranges", 2),
        ("column_ranges", 4),
        ("column_ranges(bidirectional)", 2),
    ] {
        // Ranges that come later for later keys, so that some tiles have none of their rows and some all of them.
        let bound = |at: usize| match mask.ends_with("(bidirectional)") {
            true => bounds - 1 - at % bounds,
            false => at % bounds,
        };
        let row = |at: usize| (at / bounds % 300 / 40 * 20 + bound(at) * 25).min(120) as i32;
        let rows: Vec<i32> = (0..4 * 300 * bounds).map(row).collect();
        let data = AuxData::new().column_ranges([2, 2, 300, bounds], rows);
        let mask: Mask = mask.parse().unwrap();
        let grid = TileGrid { block_q: 8, block_kv: 16 };
        check_tiles_on(&BY_BOUNDS, &mask, &shape, &data, grid);
        let problem = Problem::new(shape).mask(mask.clone()).aux_shape(data.shape());
        let options = TileOptions::default().grid(grid);
        let tiles = BY_BOUNDS.tile_classes_blocking(&problem, &data, &options).unwrap().classes;
        for class in [TileClass::Skip, TileClass::Full] {
            assert!(tiles.contains(&class), "{mask} with {bounds} bounds has no {class:?} tile");
        }
    }
}

/// Each level is made after the one below, however the work is cut.
#[test]
fn bounds_in_many_submissions() {
    let shape = Shape::new(1, 1, 70, 8).seq_len_kv(5_000);
    let data = data(&shape, 1, 0);
    let problem = Problem::new(shape).mask(Mask::Documents);
    let options = KernelOptions::default().largest_tile_map(0).most_work(1);
    let patient = limited_with(options, |_| ());
    let [found, whole] = [&patient, &*BY_BOUNDS].map(|session| {
        let options = TileOptions::default().grid(TileGrid { block_q: 10, block_kv: 300 });
        session.tile_classes_blocking(&problem, &data, &options).unwrap().classes
    });
    assert_eq!(found, whole);
    assert!(whole.contains(&TileClass::Skip) && whole.contains(&TileClass::Partial));
}

#[test]
fn attention_by_bounds() {
    for (at, mask) in MASKS.iter().enumerate() {
        let mask: Mask = mask.parse().unwrap();
        for (order, (seq_len_q, seq_len_kv)) in
            [(70, 640), (130, 97), (1, 2_600)].into_iter().enumerate()
        {
            // How many queries and keys there are makes further pipelines of each mask: a brief run takes one size more under one, and
            // decoding under another.
            if is_brief() && (order == 1 && at != 0 || order == 2 && at != 1) {
                continue;
            }
            let seed = (10 * at + order) as u64;
            let shape = Shape::new(2, 4, seq_len_q, 12).seq_len_kv(seq_len_kv).num_kv_heads(2);
            let data = data(&shape, seed, (at + order) % 3);
            // The best backward kernel takes every mask, the others one: they take long to compile.
            let backward = [if at == 0 { usize::MAX } else { 1 }, 1, 0][order];
            check(&shape, &mask, data, seed, backward);
        }
    }
}

fn check(shape: &Shape, mask: &Mask, data: AuxData, seed: u64, backward: usize) {
    let problem = Problem::new(*shape).mask(mask.clone()).aux_shape(data.shape());
    let operands = Operands { mask: data, ..Operands::random(shape, seed) };
    let inputs = operands.inputs();
    let what = format!("{mask}, {shape:?}");
    let truth = reference::attention(&problem, &inputs).unwrap();
    let expected = naive(&problem, mask, &inputs);
    let decode = if shape.seq_len_q == 1 { serving(&problem, true) } else { Vec::new() };
    for kernel in kernels(&problem).into_iter().chain(decode) {
        let options = PlanOptions::default().kernel(kernel);
        let plan = AttentionPlan::new(BY_BOUNDS.kernels(), &problem, &options).unwrap();
        assert!(plan.explain().contains("classed by bounds"), "{}", plan.explain());
        let outputs = RunOptions::default().lse(true).kernel(kernel);
        let output = BY_BOUNDS.run_blocking(&problem, &inputs, &outputs).unwrap();
        assert_close(&format!("o, {kernel}, {what}"), &output.o, &expected.o, &truth.o);
        assert_close(&format!("lse, {kernel}, {what}"), &output.lse, &expected.lse, &truth.lse);
    }
    if backward == 0 {
        return;
    }
    let upstream = RandomUpstream::random(shape, seed);
    let upstream = upstream.of_o_and_lse();
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    let expected = naive_gradients(&problem, mask, &inputs, &upstream);
    for kernel in backward::kernels(&problem).into_iter().take(backward) {
        let options = BackwardOptions::default().kernel(kernel);
        let found = BY_BOUNDS.gradients_blocking(&problem, &inputs, &upstream, &options).unwrap();
        assert_all_close(&format!("{kernel}, {what}"), &found, &expected, &truth);
    }
}

/// Documents of a sequence, each of its own length.
fn uneven_documents(tokens: usize) -> Vec<i32> {
    let lengths = [1, 700, 31, 1_024, 2_000, 64, 333, 5];
    let ids = lengths.into_iter().cycle().enumerate();
    ids.flat_map(|(id, len)| vec![id as i32; len]).take(tokens).collect()
}

/// One row of attention with one head, in f32 or f64.
macro_rules! row_of {
    ($number:ty, $tensors:expr, $evaluator:expr, $row:expr, $tokens:expr) => {{
        let ([q, k, v], dim, row): ([&Vec<f32>; 3], _, _) = ($tensors, DIM, $row);
        let at = |values: &Vec<f32>, at: usize| values[at] as $number;
        let scale = 1.0 / (dim as $number).sqrt();
        let (mut weights, mut most) = (Vec::new(), <$number>::MIN);
        for key in (0..$tokens).filter(|&key| $evaluator.keep(0, 0, row, key)) {
            let product: $number =
                (0..dim).map(|d| at(q, row * dim + d) * at(k, key * dim + d)).sum();
            most = most.max(product * scale);
            weights.push((key, product * scale));
        }
        let weights = weights.into_iter().map(|(key, score)| (key, (score - most).exp()));
        let weights: Vec<(usize, $number)> = weights.collect();
        let sum: $number = weights.iter().map(|(_, weight)| weight).sum();
        let o = (0..dim).map(move |d| {
            let parts = weights.iter().map(|&(key, weight)| weight * at(v, key * dim + d));
            parts.sum::<$number>() / sum
        });
        o.collect::<Vec<$number>>()
    }};
}

const DIM: usize = 8;

/// Some rows of many: a map of their tiles would have 1 GiB at the larger size, in tiles of 32 x 8.
#[test]
fn many_tokens() {
    let sizes: &[usize] = if is_brief() { &[70_003] } else { &[1 << 18, 1 << 20] };
    sizes.iter().for_each(|&tokens| check_many_tokens(tokens));
}

fn check_many_tokens(tokens: usize) {
    let shape = Shape::new(1, 1, tokens, DIM);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let [q, k, v] = [(); 3]
        .map(|()| (0..tokens * DIM).map(|_| rng.random_range(-2.0f32..2.0)).collect::<Vec<f32>>());
    let even = AuxData::new().document_ids((0..tokens).map(|at| (at / 1024) as i32));
    let uneven = AuxData::new().document_ids(uneven_documents(tokens));
    let far_apart = |at: usize| at < 100 || at == tokens / 2 || at + 40 > tokens;
    let padding = AuxData::new().key_padding((0..tokens).map(far_apart));
    for (mask, data) in
        [("documents & causal", even), ("documents & causal", uneven), ("key_padding", padding)]
    {
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(shape).mask(mask.clone());
        let inputs = Inputs::new(&q, &k, &v).aux(&data);
        let plan = AttentionPlan::new(BY_BOUNDS.kernels(), &problem, &Default::default()).unwrap();
        // At most two words a token that the mask reads, bounds of a quarter of them and some, and three words for lse and sums.
        assert!(plan.scratch_bytes() < 6 * 4 * tokens as u64, "{} bytes", plan.scratch_bytes());
        let start = std::time::Instant::now();
        let o = BY_BOUNDS.run_blocking(&problem, &inputs, &RunOptions::default()).unwrap().o;
        println!("{mask}: {tokens} tokens, {} bytes, {:?}", plan.scratch_bytes(), start.elapsed());
        let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
        for row in [0, 1, 1_023, 1_024, tokens / 3, tokens - 2_000, tokens - 1] {
            let truth = row_of!(f64, [&q, &k, &v], evaluator, row, tokens);
            let naive = row_of!(f32, [&q, &k, &v], evaluator, row, tokens);
            let found = &o[row * DIM..][..DIM];
            assert_close(&format!("row {row} of {mask}"), found, &naive, &truth);
        }
    }
}

/// A million tokens take bounds and no option.
#[test]
fn a_map_that_would_be_large_is_not_made() {
    let explain = |tokens: usize, mask: &str| {
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(Shape::new(1, 1, tokens, DIM)).mask(mask);
        ATTENTION.kernels().explain(&problem, &PlanOptions::default()).unwrap()
    };
    for mask in ["documents & causal", "key_padding", "token_padding", "column_ranges & causal"] {
        assert!(explain(1 << 20, mask).contains("classed by bounds"), "{mask}");
        assert!(explain(4_096, mask).contains("by a map"), "{mask}");
    }
    assert!(explain(1 << 16, "dense").contains("by a map"));
    assert!(explain(1 << 20, "causal").contains("by closed forms"));
}
