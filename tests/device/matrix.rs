//! The kernel of cooperative matrices, on a device of its own that is opened with them.

use std::sync::LazyLock;

use wgpu_attention::kernel::{ForwardKernel, KernelOptions};
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::Dtypes;
use wgpu_attention::{
    Dtype, Error, Kernels, Mask, Problem, RunOptions, ScoreModifiers, Session, Shape, reference,
};

use crate::fixture::{ATTENTION, Operands, ScoreData, is_brief};
use crate::open;
use crate::tolerance::{assert_close, naive_modified};

pub(crate) static WITH_MATRICES: LazyLock<Session> = LazyLock::new(open::with_matrices);

/// f16 in, f32 out or f16 out.
const F16: Dtypes = Dtypes::all(Dtype::F16).o(Dtype::F32).bias(Dtype::F32);

fn outputs() -> RunOptions {
    RunOptions::default().lse(true).kernel(ForwardKernel::Matrix)
}

/// Whether the adapter lists matrices that the kernel takes. Where it doesn't, the kernel refuses and says so.
pub(crate) fn has_matrices() -> bool {
    let listed = open::matrices().iter().any(|shape| {
        let sizes = [shape.m_size, shape.n_size, shape.k_size];
        let types = (shape.ab_type, shape.cr_type);
        (sizes == [8; 3] || sizes == [16; 3])
            && types == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
    });
    let problem = Problem::new(Shape::new(1, 1, 64, 64)).dtypes(F16);
    let forced = WITH_MATRICES
        .kernels()
        .wgsl(&problem, &PlanOptions::default().kernel(ForwardKernel::Matrix));
    assert_eq!(forced.is_ok(), listed, "{forced:?}");
    if !listed {
        assert_refused(&WITH_MATRICES, &problem, "cooperative matrices");
    }
    listed
}

fn assert_refused(attention: &Session, problem: &Problem, words: &str) {
    match attention.kernels().wgsl(problem, &PlanOptions::default().kernel(ForwardKernel::Matrix)) {
        Err(Error::KernelRefused { kernel, reason }) => {
            assert_eq!(kernel, "matrix");
            assert!(reason.contains(words), "{reason}");
        }
        other => panic!("{words}: {other:?}"),
    }
}

fn check(shape: Shape, mask: &str, score: &ScoreModifiers, dtypes: Dtypes, seed: u64) {
    let mask: Mask = mask.parse().unwrap();
    let problem = Problem::new(shape).mask(mask.clone()).dtypes(dtypes).score(*score);
    let mut operands = Operands::random(&shape, seed);
    for values in [&mut operands.q, &mut operands.k, &mut operands.v] {
        values.iter_mut().for_each(|x| *x = Dtype::F16.round(*x));
    }
    let data = ScoreData::random(&shape, seed);
    operands.mask = data.add_to(&shape, operands.mask);
    let inputs = operands.inputs();
    let truth = reference::attention(&problem, &inputs).unwrap();
    let naive = naive_modified(&problem, &mask, &inputs, score, &data, Dtype::F16);
    let output = WITH_MATRICES.run_blocking(&problem, &inputs, &outputs()).unwrap();
    let what = format!("{mask}, {shape:?}, {dtypes:?}");
    assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
    assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
}

#[test]
fn every_length_and_mask() {
    if !has_matrices() {
        return;
    }
    let none = ScoreModifiers::default();
    // In a brief run each in a head of its own, as in `masks_of_this_run`.
    let masks: &[&str] = match is_brief() {
        true => &["per_head(all, causal & key_lengths, dense & documents, causal)"],
        false => &["all", "causal & key_lengths", "dense & documents"],
    };
    for (seed, (seq_len_q, seq_len_kv)) in
        (0..).zip([(1, 1), (3, 15), (17, 3), (64, 32), (65, 33), (127, 113), (113, 129), (203, 1)])
    {
        let shape = Shape::new(2, 4, seq_len_q, 64).seq_len_kv(seq_len_kv).num_kv_heads(2);
        for mask in masks {
            check(shape, mask, &none, F16, seed);
        }
    }
    check(Shape::new(1, 1, 257, 64).seq_len_kv(1023), "causal", &none, F16, 1);
}

#[test]
fn every_width() {
    if !has_matrices() {
        return;
    }
    // Rows in two halves of a word, too, and o in f16.
    for (seed, (head_dim, head_dim_v, o)) in (0..).zip([
        (15, 33, Dtype::F16),
        (100, 20, Dtype::F32),
        (128, 128, Dtype::F16),
        (170, 256, Dtype::F32),
    ]) {
        // lavapipe takes minutes to compile products of rows as wide.
        if is_brief() && head_dim > 100 {
            continue;
        }
        let shape = Shape::new(1, 2, 45, head_dim).seq_len_kv(71).head_dim_v(head_dim_v);
        check(shape, "causal & key_lengths", &ScoreModifiers::default(), F16.o(o), seed);
    }
}

#[test]
fn modified_scores() {
    if !has_matrices() {
        return;
    }
    let score = ScoreModifiers::default().softcap(20.0).bias(true).alibi(true).sinks(true);
    check(Shape::new(1, 2, 70, 64).seq_len_kv(45), "window(20,3)", &score, F16, 5);
}

/// Scores that grow from tile to tile, by less than what o is rescaled for and by more, in some rows only; and sums that are
/// folded.
#[test]
fn growing_scores() {
    if !has_matrices() {
        return;
    }
    for (seq_len_kv, step) in [(150, 0.02), (150, 0.5), (150, 4.0), (4200, 0.3)] {
        let shape = Shape::new(1, 1, 40, 64).seq_len_kv(seq_len_kv);
        let mask = Mask::causal();
        let problem = Problem::new(shape).mask(mask.clone()).dtypes(F16);
        let mut operands = Operands::random(&shape, 9);
        for (row, q) in operands.q.chunks_mut(64).enumerate() {
            q.iter_mut().for_each(|x| *x = Dtype::F16.round(*x / 8.0));
            q[0] = if row % 3 == 0 { 8.0 } else { -1.0 };
        }
        for (key, k) in operands.k.chunks_mut(64).enumerate() {
            k.iter_mut().for_each(|x| *x = Dtype::F16.round(*x / 8.0));
            k[0] = Dtype::F16.round(step * key as f32);
        }
        operands.v.iter_mut().for_each(|x| *x = Dtype::F16.round(*x));
        let inputs = operands.inputs();
        let truth = reference::attention(&problem, &inputs).unwrap();
        let (score, data) = (ScoreModifiers::default(), ScoreData::default());
        let naive = naive_modified(&problem, &mask, &inputs, &score, &data, Dtype::F16);
        let output = WITH_MATRICES.run_blocking(&problem, &inputs, &outputs()).unwrap();
        let what = format!("{seq_len_kv} keys, {step} apart");
        assert_close(&format!("o of {what}"), &output.o, &naive.o, &truth.o);
        assert_close(&format!("lse of {what}"), &output.lse, &naive.lse, &truth.lse);
    }
}

/// What a masked key's value holds never shows; what a kept one holds always does.
#[test]
fn values_that_arent_finite() {
    if !has_matrices() {
        return;
    }
    let shape = Shape::new(1, 1, 40, 64);
    let problem = Problem::new(shape).mask(Mask::causal()).dtypes(F16);
    let mut operands = Operands::random(&shape, 8);
    for values in [&mut operands.q, &mut operands.k, &mut operands.v] {
        values.iter_mut().for_each(|x| *x = Dtype::F16.round(*x));
    }
    let clean = WITH_MATRICES.run_blocking(&problem, &operands.inputs(), &outputs()).unwrap();
    operands.v[35 * 64 + 5] = f32::NAN;
    operands.v[36 * 64 + 9] = f32::INFINITY;
    let output = WITH_MATRICES.run_blocking(&problem, &operands.inputs(), &outputs()).unwrap();
    for row in 0..40 {
        for d in 0..64 {
            let at = row * 64 + d;
            let (found, before) = (output.o[at], clean.o[at]);
            match d {
                5 if row >= 35 => assert!(found.is_nan(), "o[{row}, {d}] is {found}"),
                9 if row >= 36 => assert!(found == f32::INFINITY, "o[{row}, {d}] is {found}"),
                _ => assert_eq!(found.to_bits(), before.to_bits(), "o[{row}, {d}]"),
            }
        }
    }
}

#[test]
fn refusals_name_their_reason() {
    let problem = Problem::new(Shape::new(1, 1, 64, 64)).dtypes(F16);
    assert_refused(&ATTENTION, &problem, "the device wasn't opened with");
    if !has_matrices() {
        return;
    }
    let f32 = Problem::new(Shape::new(1, 1, 64, 64));
    assert_refused(&WITH_MATRICES, &f32, "q, k and v in f16, here they are f32");
    // No list, no kernel: a device doesn't tell which matrices it multiplies.
    let unlisted = Session::from_device(WITH_MATRICES.device(), WITH_MATRICES.queue());
    assert_refused(&unlisted, &problem, "the adapter's list");
    let options = KernelOptions::default().matrices(vec![wgpu::CooperativeMatrixProperties {
        m_size: 16,
        n_size: 8,
        k_size: 16,
        ab_type: wgpu::CooperativeScalarType::F16,
        cr_type: wgpu::CooperativeScalarType::F32,
        saturating_accumulation: false,
    }]);
    let other = Kernels::new(WITH_MATRICES.device(), &options);
    let refused = other
        .wgsl(&problem, &PlanOptions::default().kernel(ForwardKernel::Matrix))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("here there are: 16x8x16 F16 in F32"), "{refused}");
}
