//! Raw scores, masked scores and weights against the f64 reference.

use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{Inputs, Mask, Problem, RunOptions, Shape};

use crate::fixture::{ATTENTION, Operands, check_inspect, masks_of_this_run};

#[test]
fn every_mask() {
    for (seed, mask) in (0..).zip(masks_of_this_run()) {
        check_inspect(Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2), &mask, seed);
    }
}

#[test]
fn awkward_sizes() {
    for (seed, (seq_len_q, seq_len_kv, head_dim)) in
        (0..).zip([(1, 1, 1), (3, 65, 7), (65, 3, 64), (129, 1, 256), (5, 0, 8), (0, 5, 8)])
    {
        let shape = Shape::new(2, 2, seq_len_q, head_dim).seq_len_kv(seq_len_kv);
        check_inspect(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn masked_cells_are_exact_and_rows_sum_to_one() {
    let shape = Shape::new(1, 2, 33, 20);
    let mut operands = Operands::random(&shape, 8);
    // The last key is kept by the last row alone.
    operands.k[32 * 20..33 * 20].fill(f32::NAN);
    let problem = Problem::new(shape).mask(Mask::causal());
    let outputs =
        RunOptions::default().tensors(vec![ScoreTensor::MaskedScores, ScoreTensor::Weights]);
    let inputs = Inputs::new(&operands.q, &operands.k, &operands.v);
    let output = ATTENTION.run_blocking(&problem, &inputs, &outputs).unwrap();
    for row in 0..32 {
        let masked = &output.tensors[0][row * 33..][..33];
        let weights = &output.tensors[1][row * 33..][..33];
        assert!(masked[row + 1..].iter().all(|&x| x == f32::NEG_INFINITY), "row {row}");
        assert!(weights[row + 1..].iter().all(|x| x.to_bits() == 0), "row {row}");
        let sum: f32 = weights.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "row {row} sums to {sum}");
    }
}
