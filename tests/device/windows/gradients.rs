//! Gradients where the keys of a head, or the queries of a group, are more than the device binds in one piece.

use wgpu_attention::kernel::{BackwardKernel, ForwardKernel};
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    Dtype, Error, Layout, Mask, Problem, ScoreModifiers, Shape, Upstream, reference,
};

use super::{assert_near, binding, run, swapped, windows};
use crate::backward::{self, RandomUpstream, assert_all_close};
use crate::fixture::{Operands, ScoreData};
use crate::matrix::has_matrices;
use crate::open;
use crate::operands::stored;
use crate::tolerance::{assert_close, naive_gradients, naive_gradients_modified, naive_modified};

/// Windows of the keys for dq and of the queries for dk and dv, in every layout of a group's heads: several heads at a time,
/// some rows of one, and rows of all side by side.
#[test]
fn gradients() {
    for (seed, (shape, layout, bytes, mask)) in (0..).zip([
        (
            Shape::new(2, 4, 203, 20).seq_len_kv(201).num_kv_heads(2),
            Layout::Bhsd,
            12 << 10,
            "causal & key_lengths",
        ),
        (
            Shape::new(1, 6, 61, 20).seq_len_kv(67).num_kv_heads(1),
            Layout::Bhsd,
            14 << 10,
            "documents & causal",
        ),
        (Shape::new(1, 2, 203, 20).seq_len_kv(403), Layout::Bshd, 24 << 10, "window(50,3)"),
    ]) {
        let attention = binding(bytes);
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(shape).mask(mask.clone());
        let operands = Operands::random(&shape, seed);
        let upstream = RandomUpstream::random(&shape, seed);
        let truth =
            reference::gradients(&problem, &operands.inputs(), &upstream.of_o_and_lse()).unwrap();
        let naive = naive_gradients(&problem, &mask, &operands.inputs(), &upstream.of_o_and_lse());
        let Shape { batch: b, num_heads, num_kv_heads, seq_len_q, seq_len_kv, .. } = shape;
        let (of_q, of_k) = ([b, num_heads, seq_len_q, 20], [b, num_kv_heads, seq_len_kv, 20]);
        let placed = |values: &[f32], dims| match layout {
            Layout::Bhsd => values.to_vec(),
            Layout::Bshd => swapped(values, dims),
        };
        let back = |values: &[f32], [b, h, s, d]: [usize; 4]| match layout {
            Layout::Bhsd => values.to_vec(),
            Layout::Bshd => swapped(values, [b, s, h, d]),
        };
        let own = Operands {
            q: placed(&operands.q, of_q),
            k: placed(&operands.k, of_k),
            v: placed(&operands.v, of_k),
            mask: operands.mask.clone(),
        };
        let dout = placed(&upstream.dout, of_q);
        let problem = problem.layout(layout);
        for kernel in backward::kernels(&problem) {
            if kernel == BackwardKernel::Matrix {
                continue;
            }
            let options = BackwardOptions::default().kernel(kernel);
            let upstream = Upstream::new(&dout).dlse(&upstream.dlse);
            let mut found =
                attention.gradients_blocking(&problem, &own.inputs(), &upstream, &options).unwrap();
            for (gradient, dims) in
                [(&mut found.dq, of_q), (&mut found.dk, of_k), (&mut found.dv, of_k)]
            {
                *gradient = back(gradient, dims);
            }
            assert_all_close(&format!("{kernel}, {mask}, {shape:?}"), &found, &naive, &truth);
        }
    }
}

/// The slopes' gradients go on like the sums of weights; of a bias, dk and dv read the rows of a window.
#[test]
fn gradients_of_modifiers() {
    let attention = binding(15 << 10);
    let score = ScoreModifiers::default().softcap(20.0);
    let keys = Shape::new(1, 2, 203, 20).seq_len_kv(203).num_kv_heads(1);
    for (seed, (shape, score, mask)) in (3..).zip([
        (keys, score.alibi(true).sinks(true), "causal"),
        (keys.seq_len_q(403).seq_len_kv(21), score.bias(true), "key_padding"),
    ]) {
        let data = ScoreData::random(&shape, seed);
        let mut operands = Operands::random(&shape, seed);
        operands.mask = data.add_to(&shape, operands.mask);
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(shape).mask(mask.clone()).score(score).dropout(0.3);
        let upstream = RandomUpstream::random(&shape, seed);
        let upstream = upstream.of_o_and_lse();
        let inputs = operands.inputs();
        let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
        let f32 = Dtype::F32;
        let naive =
            naive_gradients_modified(&problem, &mask, &inputs, &upstream, &score, &data, f32);
        for kernel in backward::kernels(&problem) {
            let options = BackwardOptions::default().kernel(kernel);
            let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options);
            let what = format!("{kernel}, {score:?}");
            assert_all_close(&what, &found.unwrap(), &naive, &truth);
        }
    }
}

/// A NaN that is kept reaches the gradients of the rows that keep it, whichever window it is in; one that isn't reaches none.
#[test]
fn hostile_gradients() {
    let attention = binding(10 << 10);
    let shape = Shape::new(1, 1, 203, 20);
    let problem = Problem::new(shape).mask(Mask::causal());
    let clean = Operands::random(&shape, 5);
    let dout = vec![0.25; shape.o_len().unwrap()];
    for kernel in backward::kernels(&problem) {
        let options = BackwardOptions::default().kernel(kernel);
        let gradients = |operands: &Operands| {
            let (inputs, upstream) = (operands.inputs(), Upstream::new(&dout));
            attention.gradients_blocking(&problem, &inputs, &upstream, &options).unwrap()
        };
        let expected = gradients(&clean);
        let mut hostile = Operands::random(&shape, 5);
        hostile.k[130 * 20..][..20].fill(f32::NAN);
        let found = gradients(&hostile);
        for (at, (x, y)) in found.dq.iter().zip(&expected.dq).enumerate() {
            let right = if at / 20 >= 130 { x.is_nan() } else { x.to_bits() == y.to_bits() };
            assert!(right, "{kernel}: dq[{at}] is {x}, not {y}");
        }
        assert!(found.dv[..20 * 100].iter().any(|x| x.is_nan()), "{kernel}: rows from 130 on");
    }
}

/// The same by matrices, forward and backward: sums, means in 16 bits, and gradients.
#[test]
fn matrices() {
    if !has_matrices() {
        return;
    }
    let attention = open::limited_with_matrices(|limits| {
        limits.max_storage_buffer_binding_size = 14 << 10;
    });
    let shape = Shape::new(1, 4, 203, 32).seq_len_kv(261).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    for (seed, o) in (0..).zip([Dtype::F32, Dtype::F16]) {
        let dtypes = Dtypes::all(Dtype::F16).o(o);
        let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtypes).dropout(0.2);
        let operands = stored(Operands::random(&shape, seed), dtypes);
        let kernel = ForwardKernel::Matrix;
        let count = windows(&attention, &problem, &operands.mask, kernel);
        let truth = reference::attention(&problem, &operands.inputs()).unwrap();
        let (none, data) = (ScoreModifiers::default(), ScoreData::default());
        let inputs = operands.inputs();
        let naive = naive_modified(&problem, &mask, &inputs, &none, &data, Dtype::F16);
        let output = run(&attention, &problem, &operands, kernel);
        if o == Dtype::F32 {
            assert_close("o", &output.o, &naive.o, &truth.o);
        } else {
            // As for the other kernels, and the weights' own roundings to f16.
            let allowed = (count + 2) as f64 / 4096.0 * 8.0;
            assert_near("o in f16", &output.o, &truth.o, allowed);
        }
        assert_close("lse", &output.lse, &naive.lse, &truth.lse);

        let upstream = RandomUpstream::random(&shape, seed);
        let dout: Vec<f32> = upstream.dout.iter().map(|&x| o.round(x)).collect();
        let upstream = Upstream::new(&dout);
        let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
        let naive =
            naive_gradients_modified(&problem, &mask, &inputs, &upstream, &none, &data, Dtype::F16);
        let options = BackwardOptions::default().kernel(BackwardKernel::Matrix);
        let found = attention.gradients_blocking(&problem, &inputs, &upstream, &options);
        match found {
            Ok(found) => assert_all_close(&format!("matrices, o in {o}"), &found, &naive, &truth),
            // All of its tensors are f16.
            Err(error) => {
                assert!(matches!(error, Error::KernelRefused { .. }) && o == Dtype::F32, "{error}");
            }
        }
    }
}
