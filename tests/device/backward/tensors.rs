//! How operands and gradients are stored: types and strides.

use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::Strides;
use wgpu_attention::{Dtype, Mask, Problem, ScoreModifiers, Shape, Upstream, reference};

use super::{RandomUpstream, assert_all_close, kernels, run, session_of};
use crate::fixture::{Operands, ScoreData};
use crate::tolerance::naive_gradients_modified;

/// 16-bit tensors and gradients, rows that are read four at a time and rows of odd lengths that share words.
#[test]
fn every_type() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for (seed, head_dim) in (0..).zip([20, 15]) {
            let shape = Shape::new(2, 4, 37, head_dim).seq_len_kv(41).num_kv_heads(2);
            let mask: Mask = "causal & key_lengths".parse().unwrap();
            let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtype);
            let mut operands = Operands::random(&shape, seed);
            let mut upstream = RandomUpstream::random(&shape, seed);
            for tensor in [&mut operands.q, &mut operands.k, &mut operands.v, &mut upstream.dout] {
                tensor.iter_mut().for_each(|x| *x = dtype.round(*x));
            }
            let (inputs, upstream) = (operands.inputs(), upstream.of_o_and_lse());
            let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
            let none = (ScoreModifiers::default(), ScoreData::default());
            let naive = naive_gradients_modified(
                &problem, &mask, &inputs, &upstream, &none.0, &none.1, dtype,
            );
            for kernel in kernels(&problem) {
                for stored in [Dtype::F32, dtype] {
                    let options = BackwardOptions::default().kernel(kernel).dtypes(stored);
                    let session = session_of(kernel);
                    let found = session.gradients_blocking(&problem, &inputs, &upstream, &options);
                    let found = found.unwrap();
                    let what = format!("{kernel}, {dtype} to {stored}, {shape:?}");
                    assert_all_close(&what, &found, &naive, &truth);
                    let exact = found.dq.iter().all(|&x| stored.round(x) == x);
                    assert!(exact, "dq of {what} isn't of its type");
                }
            }
        }
    }
}

/// Tensors and gradients of any strides: what is dense gives the same numbers.
#[test]
fn arbitrary_strides() {
    let shape = Shape::new(2, 4, 9, 6).seq_len_kv(11).num_kv_heads(2);
    let problem = Problem::new(shape).mask(Mask::causal());
    let operands = Operands::random(&shape, 9);
    let upstream = RandomUpstream::random(&shape, 9);
    // [seq, heads, batch, dim] with room behind each row
    let strides = |heads: usize| Strides { batch: 8, head: 16, seq: 16 * heads, dim: 1 };
    let spread = |values: &[f32], heads: usize, seq: usize| {
        let mut placed = vec![f32::NAN; (16 * heads) * (seq - 1) + 16 * (heads - 1) + 8 + 6];
        for (at, value) in values.iter().enumerate() {
            let (b, h) = (at / 6 / seq / heads, at / 6 / seq % heads);
            placed[b * 8 + h * 16 + at / 6 % seq * 16 * heads + at % 6] = *value;
        }
        placed
    };
    let placed = Operands {
        q: spread(&operands.q, 4, 9),
        k: spread(&operands.k, 2, 11),
        v: spread(&operands.v, 2, 11),
        mask: operands.mask.clone(),
    };
    let dout = spread(&upstream.dout, 4, 9);
    let spread_problem = (problem.clone())
        .q_strides(strides(4))
        .k_strides(strides(2))
        .v_strides(strides(2))
        .o_strides(strides(4));
    for kernel in kernels(&spread_problem) {
        let dense = run(&problem, &operands, &upstream.of_o(), kernel);
        let found = run(&spread_problem, &placed, &Upstream::new(&dout), kernel);
        for (name, found, dense, heads, seq) in [
            ("dq", &found.dq, &dense.dq, 4, 9),
            ("dk", &found.dk, &dense.dk, 2, 11),
            ("dv", &found.dv, &dense.dv, 2, 11),
        ] {
            let expected = spread(dense, heads, seq);
            for (at, (x, y)) in found.iter().zip(&expected).enumerate() {
                // Between the rows nothing is written.
                assert!(
                    x == y || (y.is_nan() && *x == 0.0),
                    "{kernel}: {name}[{at}]: {x}, not {y}"
                );
            }
        }
    }
}
