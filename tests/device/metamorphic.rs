//! Relations between results that hold whatever the result is.

use wgpu_attention::{Mask, Problem, Shape};

use crate::fixture::{Operands, kernels, run};

#[test]
fn causal_over_n_is_a_prefix_of_causal_over_more() {
    let long = Shape::new(1, 2, 96, 20);
    let short = Shape::new(1, 2, 71, 20);
    let operands = Operands::random(&long, 1);
    let cut = |values: &[f32]| -> Vec<f32> {
        values.chunks(96 * 20).flat_map(|head| &head[..71 * 20]).copied().collect()
    };
    let prefix = Operands {
        q: cut(&operands.q),
        k: cut(&operands.k),
        v: cut(&operands.v),
        mask: Default::default(),
    };
    let problem = |shape| Problem::new(shape).mask(Mask::causal());
    for kernel in kernels(&problem(long)) {
        let whole = run(&problem(long), &operands, kernel);
        let part = run(&problem(short), &prefix, kernel);
        assert_eq!(cut(&whole.o), part.o, "{kernel}");
    }
}

#[test]
fn grouped_heads_equal_repeated_heads() {
    let grouped = Shape::new(2, 6, 33, 20).num_kv_heads(2);
    let full = Shape::new(2, 6, 33, 20);
    let operands = Operands::random(&grouped, 2);
    let repeat = |values: &[f32]| -> Vec<f32> {
        values.chunks(33 * 20).flat_map(|head| head.repeat(3)).collect()
    };
    let repeated = Operands {
        q: operands.q.clone(),
        k: repeat(&operands.k),
        v: repeat(&operands.v),
        mask: operands.mask.clone(),
    };
    let problem = |shape| Problem::new(shape).mask(Mask::causal() & Mask::KeyLengths);
    for kernel in kernels(&problem(full)) {
        let expected = run(&problem(full), &repeated, kernel);
        assert_eq!(expected, run(&problem(grouped), &operands, kernel), "{kernel}");
    }
}

#[test]
fn a_permuted_batch_gives_a_permuted_result() {
    let shape = Shape::new(2, 2, 33, 20);
    let operands = Operands::random(&shape, 3);
    let swap = |values: &[f32]| -> Vec<f32> {
        let (first, second) = values.split_at(values.len() / 2);
        [second, first].concat()
    };
    let lengths = |lengths: [i32; 2]| wgpu_attention::AuxData::new().key_lengths(lengths);
    let straight = Operands { mask: lengths([13, 27]), ..Operands::random(&shape, 3) };
    let swapped = Operands {
        q: swap(&operands.q),
        k: swap(&operands.k),
        v: swap(&operands.v),
        mask: lengths([27, 13]),
    };
    let problem = Problem::new(shape).mask(Mask::KeyLengths);
    for kernel in kernels(&problem) {
        assert_eq!(
            swap(&run(&problem, &straight, kernel).o),
            run(&problem, &swapped, kernel).o,
            "{kernel}"
        );
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let shape = Shape::new(2, 2, 129, 20);
    let operands = Operands::random(&shape, 4);
    let problem = Problem::new(shape).mask("documents | window(3,3)".parse().unwrap());
    for kernel in kernels(&problem) {
        let first = run(&problem, &operands, kernel);
        for _ in 0..5 {
            assert_eq!(first, run(&problem, &operands, kernel), "{kernel}");
        }
    }
}

#[test]
fn a_mask_that_keeps_all_equals_no_mask() {
    let shape = Shape::new(1, 2, 65, 20);
    let operands = Operands::random(&shape, 5);
    let plain = Problem::new(shape);
    // Full tiles take another path than partial ones; both must give the same bits.
    let trivial = Problem::new(shape).mask("causal | !causal".parse().unwrap());
    for kernel in kernels(&plain) {
        assert_eq!(run(&plain, &operands, kernel), run(&trivial, &operands, kernel), "{kernel}");
    }
}

#[test]
fn one_query_after_another_equals_all_at_once() {
    let shape = Shape::new(1, 2, 21, 20);
    let operands = Operands::random(&shape, 6);
    let parallel = Problem::new(shape).mask(Mask::causal());
    for kernel in kernels(&parallel) {
        let all = run(&parallel, &operands, kernel);
        for t in 0..21 {
            let step_shape = Shape::new(1, 2, 1, 20).seq_len_kv(t + 1);
            let rows = |values: &[f32], rows: std::ops::Range<usize>| -> Vec<f32> {
                let head = |head: &[f32]| head[rows.start * 20..rows.end * 20].to_vec();
                values.chunks(21 * 20).flat_map(head).collect()
            };
            let step = Operands {
                q: rows(&operands.q, t..t + 1),
                k: rows(&operands.k, 0..t + 1),
                v: rows(&operands.v, 0..t + 1),
                mask: Default::default(),
            };
            let found = run(&Problem::new(step_shape).mask(Mask::causal()), &step, kernel);
            assert_eq!(rows(&all.o, t..t + 1), found.o, "{kernel}: step {t}");
        }
    }
}
