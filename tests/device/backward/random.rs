//! Random mask expressions, each over several sizes: structures are few, for each compiles kernels of its own.

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use wgpu_attention::{Mask, Problem, Shape};

use super::{check_kernels, kernels};
use crate::fixture::{Operands, is_brief};

/// How many structures, in a brief run and otherwise.
const STRUCTURES: [usize; 2] = [5, 10];

/// Batch, group, queries, keys.
const SIZES: [(usize, usize, usize, usize); 3] = [(2, 2, 41, 57), (1, 1, 33, 9), (2, 1, 7, 70)];

#[test]
fn gradients_under_random_masks() {
    // The same masks each time.
    let mut runner = TestRunner::deterministic();
    let mut masks: Vec<Mask> = Vec::new();
    while masks.len() < STRUCTURES[usize::from(!is_brief())] {
        let mask = crate::random::mask().new_tree(&mut runner).unwrap().current();
        // Leaves alone are tested elsewhere.
        if mask.to_string().contains(['&', '|', '!']) {
            masks.push(mask);
        }
    }
    for (at, mask) in (0..).zip(&masks) {
        for (seed, (batch, group, seq_len_q, seq_len_kv)) in (10 * at..).zip(SIZES) {
            let shape =
                Shape::new(batch, 2 * group, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
            let problem = Problem::new(shape).mask(mask.clone());
            // The best kernel takes each, the others one in five.
            let kernels = kernels(&problem);
            let kernels = if at % 5 == 1 { &kernels[..] } else { &kernels[..1] };
            check_kernels(&problem, mask, &Operands::random(&shape, seed), seed, kernels);
        }
    }
}
