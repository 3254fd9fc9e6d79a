//! o and lse against the f64 reference: every mask, sizes off every tile, every head_dim, grouped heads, layouts.

use wgpu_attention::tensor::Strides;
use wgpu_attention::{Layout, Mask, Problem, Shape, reference};

use crate::fixture::{Operands, check_forward, is_brief, kernels, masks_of_this_run, run};
pub(crate) use crate::operands::MASKS;
use crate::tolerance::{assert_close, naive};

/// Queries × keys: off every tile, more of the one, more of the other, one, none.
const LENGTHS: &[(usize, usize)] =
    &[(1, 1), (3, 15), (17, 3), (65, 33), (127, 113), (113, 129), (129, 129), (1, 203), (203, 1)];

#[test]
fn every_mask_on_awkward_sizes() {
    for (at, mask) in masks_of_this_run().iter().enumerate() {
        for (seed, &(seq_len_q, seq_len_kv)) in (100 * at as u64..).zip(LENGTHS) {
            // Few queries make further kernels of each mask, which have little to do with it.
            if is_brief() && at % 5 != 1 && seq_len_q <= 32 {
                continue;
            }
            // A mask's functions are the same text, however long rows are, and short ones compile faster.
            let head_dim = if at % 5 == 1 { 20 } else { 12 };
            let shape =
                Shape::new(2, 4, seq_len_q, head_dim).seq_len_kv(seq_len_kv).num_kv_heads(2);
            check_forward(shape, mask, seed);
        }
    }
}

#[test]
fn every_alignment_of_causal() {
    for (at, text) in
        ["causal(upper_left)", "causal(offset=5)", "causal(offset=-7)"].iter().enumerate()
    {
        for (seed, &(seq_len_q, seq_len_kv)) in (at as u64 * 100..).zip(LENGTHS) {
            check_forward(Shape::new(1, 2, seq_len_q, 20).seq_len_kv(seq_len_kv), text, seed);
        }
    }
}

#[test]
fn offsets_and_windows_beyond_every_position() {
    let shape = Shape::new(1, 2, 19, 20).seq_len_kv(23);
    for mask in [
        "causal(offset=2147483647)",
        "causal(offset=-2147483648)",
        "window(4294967295,4294967295)",
        "window(0,0)",
        "window(inf,inf)",
    ] {
        check_forward(shape, mask, 7);
    }
}

#[test]
fn every_head_dim() {
    for (seed, head_dim) in
        (0..).zip([1, 3, 4, 8, 16, 17, 31, 32, 33, 64, 80, 96, 127, 128, 129, 192, 200, 255, 256])
    {
        let shape = Shape::new(1, 2, 37, head_dim).seq_len_kv(41);
        check_forward(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn values_of_another_width() {
    for (seed, (head_dim, head_dim_v)) in
        (0..).zip([(64, 1), (1, 64), (24, 130), (128, 16), (256, 4)])
    {
        let shape = Shape::new(2, 2, 37, head_dim).seq_len_kv(41).head_dim_v(head_dim_v);
        check_forward(shape, "causal & key_lengths", seed);
    }
}

#[test]
fn long_rows() {
    check_forward(Shape::new(1, 1, 1023, 20), "causal", 1);
    check_forward(
        Shape::new(1, 2, 217, 20).seq_len_kv(1023).num_kv_heads(1),
        "causal & key_lengths",
        2,
    );
    check_forward(Shape::new(1, 1, 257, 20).seq_len_kv(1023), "documents", 3);
}

#[test]
fn multi_query_heads() {
    check_forward(Shape::new(2, 6, 33, 20).num_kv_heads(1), "causal & key_lengths", 1);
    check_forward(Shape::new(2, 6, 33, 20).num_kv_heads(3), "dense", 2);
}

#[test]
fn both_layouts_agree() {
    let shape = Shape::new(2, 4, 33, 20).seq_len_kv(47).num_kv_heads(2).head_dim_v(12);
    let problem = Problem::new(shape).mask(Mask::causal() & Mask::KeyLengths);
    let operands = Operands::random(&shape, 5);
    let swapped = Operands {
        q: to_bshd(&operands.q, [2, 4, 33, 20]),
        k: to_bshd(&operands.k, [2, 2, 47, 20]),
        v: to_bshd(&operands.v, [2, 2, 47, 12]),
        mask: operands.mask.clone(),
    };
    for kernel in kernels(&problem) {
        let bhsd = run(&problem, &operands, kernel);
        let bshd = run(&problem.clone().layout(Layout::Bshd), &swapped, kernel);
        assert_eq!(to_bshd(&bhsd.o, [2, 4, 33, 12]), bshd.o, "{kernel}");
        assert_eq!(bhsd.lse, bshd.lse, "{kernel}");
    }
}

fn to_bshd(values: &[f32], [batch, heads, seq, dim]: [usize; 4]) -> Vec<f32> {
    let mut swapped = Vec::new();
    for b in 0..batch {
        for s in 0..seq {
            for h in 0..heads {
                let row = ((b * heads + h) * seq + s) * dim;
                swapped.extend_from_slice(&values[row..row + dim]);
            }
        }
    }
    swapped
}

#[test]
fn arbitrary_strides() {
    // q and k share one packed projection with room between rows, v is [batch, dim, heads, seq], o has gaps.
    let shape = Shape::new(2, 2, 9, 6).seq_len_kv(11);
    let strides = |batch, head, seq, dim| Strides { batch, head, seq, dim };
    let problem = Problem::new(shape)
        .mask(Mask::causal())
        .q_strides(strides(200, 7, 20, 1))
        .k_strides(strides(230, 6, 20, 1))
        .v_strides(strides(132, 11, 1, 22))
        .o_strides(strides(400, 200, 17, 2));
    let mut operands = Operands::random(&Shape::new(1, 1, 500, 1), 9);
    operands.mask = Default::default();
    operands.q.truncate(200 + 7 + 20 * 8 + 6);
    operands.k.truncate(230 + 6 + 20 * 10 + 6);
    operands.v.truncate(132 + 11 + 10 + 22 * 5 + 1);
    let truth = reference::attention(&problem, &operands.inputs()).unwrap();
    for kernel in kernels(&problem) {
        let output = run(&problem, &operands, kernel);
        // Packed tensors have no naive result; a wrong stride is wrong by far more than this.
        assert_eq!(output.o.len(), truth.o.len(), "{kernel}");
        for (at, (&x, &y)) in output.o.iter().zip(&truth.o).enumerate() {
            assert!((f64::from(x) - y).abs() < 1e-4, "{kernel}: o[{at}] is {x} instead of {y}");
        }
    }
}

#[test]
fn strides_of_zero_repeat_keys_and_values() {
    let shape = Shape::new(3, 2, 9, 8);
    let dense = Operands::random(&shape, 3);
    let one = 2 * 9 * 8;
    let repeated = Operands {
        q: dense.q.clone(),
        k: dense.k[..one].repeat(3),
        v: dense.v[..one].repeat(3),
        mask: Default::default(),
    };
    let broadcast = Operands {
        q: dense.q.clone(),
        k: dense.k[..one].to_vec(),
        v: dense.v[..one].to_vec(),
        mask: Default::default(),
    };
    let problem = Problem::new(shape).mask(Mask::causal());
    let strides = Strides { batch: 0, head: 72, seq: 8, dim: 1 };
    let shared = problem.clone().k_strides(strides).v_strides(strides);
    for kernel in kernels(&problem) {
        assert_eq!(
            run(&problem, &repeated, kernel).o,
            run(&shared, &broadcast, kernel).o,
            "{kernel}"
        );
    }
}

#[test]
fn scales() {
    let shape = Shape::new(1, 2, 33, 20);
    let operands = Operands::random(&shape, 11);
    for scale in [0.0, 1.0, -0.3, 1e-20, 3.0] {
        let problem = Problem::new(shape).mask(Mask::causal()).scale(scale);
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        let naive = naive(&problem, &Mask::causal(), &operands.inputs());
        for kernel in kernels(&problem) {
            let output = run(&problem, &operands, kernel);
            let what = format!("{kernel}, scale {scale}");
            assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
            assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
        }
    }
}

#[test]
fn nothing_to_compute() {
    for shape in [
        Shape::new(0, 2, 5, 8),
        Shape::new(2, 2, 0, 8),
        Shape::new(2, 2, 5, 8).seq_len_kv(0),
        Shape::new(2, 2, 0, 8).seq_len_kv(0),
    ] {
        for mask in ["all", "causal & key_lengths", "documents", "self_only_if_alone(dense)"] {
            check_forward(shape, mask, 1);
        }
    }
}
