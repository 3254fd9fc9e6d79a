//! Every leaf of the table, with arguments and data at random: devices keep what the CPU keeps, and class tiles rightly.

use std::ops::RangeInclusive;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention::mask::{Random, TileGrid};
use wgpu_attention::{AuxData, Mask, Problem, RunOptions, Shape, reference};

use crate::fixture::{ATTENTION, Operands, kernels};
use crate::forward::MASKS;
use crate::masks::{check_materialized, check_tiles};
use crate::tolerance::{assert_close, naive};

/// Groups of heads, sequences that differ in number from heads, and lengths that are no multiples of anything.
const SHAPES: [Shape; 3] = [
    Shape::new(2, 4, 19, 8).seq_len_kv(37).num_kv_heads(2),
    Shape::new(3, 2, 33, 8),
    Shape::new(1, 3, 1, 8).seq_len_kv(40).num_kv_heads(1),
];

const GRID: TileGrid = TileGrid { block_q: 4, block_kv: 3 };

fn numbers(seed: u64) -> impl FnMut(RangeInclusive<i64>) -> i64 {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    move |range| rng.random_range(range)
}

#[test]
fn every_leaf_is_what_the_cpu_says() {
    for (seed, leaf) in (0..).zip(Mask::leaves()) {
        let mut draw = numbers(seed);
        for shape in &SHAPES {
            for _ in 0..2 {
                let (mask, data) = leaf.random(shape, &mut Random::new(&mut draw));
                check_materialized(&mask, shape, &data);
                check_tiles(&mask, shape, &data, GRID);
            }
        }
        for sample in leaf.samples() {
            check_materialized(&sample.mask, &sample.shape, &sample.data);
            check_tiles(&sample.mask, &sample.shape, &sample.data, GRID);
        }
    }
}

/// A leaf beside itself and beside another one, each with data of its own: no slot and no tensor is another's.
#[test]
fn leaves_beside_each_other_read_their_own() {
    let kinds: Vec<_> = Mask::leaves().collect();
    let shape = &SHAPES[0];
    let mut draw = numbers(7);
    for (at, leaf) in kinds.iter().enumerate() {
        let other = kinds[(at + 5) % kinds.len()];
        let mut all = AuxData::new();
        let [a, b, c] = [(leaf, 1), (&other, 2), (leaf, 3)].map(|(kind, number)| {
            let (mask, data) = kind.random(shape, &mut Random::new(&mut draw));
            all = std::mem::take(&mut all).with_numbered(number, data);
            mask.numbered(number)
        });
        for mask in [(a.clone() & !b.clone()) | c.clone(), Mask::PerHead(vec![c, a & b])] {
            check_materialized(&mask, shape, &all);
            check_tiles(&mask, shape, &all, GRID);
        }
    }
}

/// Attention under leaves that no mask of the other tests has, by every kernel that serves: prefill, decode.
#[test]
fn attention_under_the_leaves_without_tests_of_their_own() {
    let has = |mask: &&str, name: &str| mask.contains(name);
    let untested = Mask::leaves().filter(|leaf| !MASKS.iter().any(|mask| has(mask, leaf.name())));
    for (seed, leaf) in (0..).zip(untested) {
        let mut draw = numbers(seed);
        for shape in
            [Shape::new(2, 4, 40, 20).seq_len_kv(77).num_kv_heads(2), Shape::new(2, 4, 3, 20)]
        {
            let (mask, data) = leaf.random(&shape, &mut Random::new(&mut draw));
            let operands = Operands::random(&shape, seed);
            let inputs = operands.inputs().aux(&data);
            let problem = Problem::new(shape).mask(mask.clone()).aux_shape(data.shape());
            let truth = reference::attention(&problem, &inputs).unwrap();
            let naive = naive(&problem, &mask, &inputs);
            for kernel in kernels(&problem) {
                let outputs = RunOptions::default().lse(true).kernel(kernel);
                let output = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
                let what = format!("{kernel}, {mask}, {shape:?}");
                assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
                assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
            }
        }
    }
}
