//! The kernels of cooperative matrices: weights and gradients of scores in f16, in whose small range sums have to keep their digits.

use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::tensor::{Dtypes, KeySequences};
use wgpu_attention::{
    BackwardPlan, Dtype, Error, Layout, Mask, Problem, ScoreModifiers, Shape, reference,
};

use super::{RandomUpstream, assert_all_close, run};
use crate::fixture::{ATTENTION, Operands, ScoreData, is_brief};
use crate::matrix::{WITH_MATRICES, has_matrices};
use crate::operands::stored;
use crate::sequences::{Batch, FORMS, LENGTHS};
use crate::tolerance::naive_gradients_modified;

const F16: Dtypes = Dtypes::all(Dtype::F16);

/// Compares all gradients of operands, which are changed and rounded first, with the reference's.
fn check(
    problem: &Problem,
    mask: &Mask,
    score: &ScoreModifiers,
    seed: u64,
    change: impl Fn(&mut Operands, &mut RandomUpstream),
) {
    let dtypes = if score.bias { F16.bias(Dtype::F32) } else { F16 };
    let problem = problem.clone().mask(mask.clone()).dtypes(dtypes).score(*score);
    let shape = problem.shape();
    let mut operands = Operands::random(shape, seed);
    let mut upstream = RandomUpstream::random(shape, seed);
    let data = ScoreData::random(shape, seed);
    operands.mask = data.add_to(shape, operands.mask);
    change(&mut operands, &mut upstream);
    let operands = stored(operands, F16);
    upstream.dout.iter_mut().for_each(|x| *x = Dtype::F16.round(*x));
    // Every other case has a loss that uses lse, too.
    let upstream = if seed.is_multiple_of(2) { upstream.of_o() } else { upstream.of_o_and_lse() };
    let inputs = operands.inputs();
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    let naive =
        naive_gradients_modified(&problem, mask, &inputs, &upstream, score, &data, Dtype::F16);
    let found = run(&problem, &operands, &upstream, BackwardKernel::Matrix);
    assert_all_close(&format!("{mask}, {shape:?}, {score:?}"), &found, &naive, &truth);
}

const PLAIN: ScoreModifiers = ScoreModifiers::new();

fn unchanged(_: &mut Operands, _: &mut RandomUpstream) {}

#[test]
fn every_length() {
    if !has_matrices() {
        return;
    }
    let masks =
        ["causal & key_lengths", "self_only_if_alone(causal & documents)"].map(str::to_owned);
    // A brief run has each in heads of its own, so that they share kernels.
    let masks =
        if is_brief() { vec![format!("per_head({})", masks.join(", "))] } else { masks.into() };
    for mask in masks {
        let mask: Mask = mask.parse().unwrap();
        for (seed, &(seq_len_q, seq_len_kv)) in (0..).zip(super::LENGTHS) {
            let shape = Shape::new(2, 4, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(2);
            check(&Problem::new(shape), &mask, &PLAIN, seed, unchanged);
        }
    }
}

/// Long rows have kernels of their own for dk and for dv.
#[test]
fn every_width() {
    if !has_matrices() {
        return;
    }
    for (seed, (head_dim, head_dim_v)) in (0..).zip([(15, 33), (9, 100), (128, 128), (100, 20)]) {
        // lavapipe takes minutes to compile products of rows as wide. A bias has the same kernels for dk and dv.
        if is_brief() && head_dim.max(head_dim_v) > 64 {
            continue;
        }
        let shape = Shape::new(1, 2, 45, head_dim).seq_len_kv(71).head_dim_v(head_dim_v);
        check(&Problem::new(shape), &Mask::causal(), &PLAIN, seed, unchanged);
    }
}

#[test]
fn modified_scores() {
    if !has_matrices() {
        return;
    }
    let score = ScoreModifiers::default().softcap(20.0).bias(true).alibi(true).sinks(true);
    let shape = Shape::new(1, 4, 70, 16).seq_len_kv(45).num_kv_heads(2);
    let mask = "window(20,3)".parse().unwrap();
    check(&Problem::new(shape).dropout(0.3), &mask, &score, 5, unchanged);
    check(&Problem::new(shape).dropout(0.3), &mask, &PLAIN, 6, unchanged);
}

/// Gradients of any magnitude; ones that grow from tile to tile, in some rows only, by less than what sums are rescaled for and by
/// more; and rows of so many even weights that each is below f16's normal numbers.
#[test]
fn gradients_of_any_magnitude() {
    if !has_matrices() {
        return;
    }
    let shape = Shape::new(1, 1, 70, 16).seq_len_kv(150);
    for (seed, magnitude) in (0..).zip([1e-5, 1.0, 1e3]) {
        check(&Problem::new(shape), &Mask::All, &PLAIN, seed, |_, upstream| {
            upstream.dout.iter_mut().for_each(|x| *x *= magnitude);
            upstream.dlse.iter_mut().for_each(|x| *x *= magnitude);
        });
    }
    for (seed, growth) in (0..).zip([1.2f32, 8.0]) {
        check(&Problem::new(shape), &Mask::All, &PLAIN, seed, |operands, upstream| {
            let grown = |row: usize| match row % 3 {
                0 => growth.powi((row / 16) as i32 - 4),
                _ => 1.0,
            };
            for (key, v) in operands.v.chunks_mut(16).enumerate() {
                v.iter_mut().for_each(|x| *x *= grown(key).min(100.0));
            }
            for (row, dout) in upstream.dout.chunks_mut(16).enumerate() {
                dout.iter_mut().for_each(|x| *x *= grown(row).min(100.0));
            }
        });
    }
    // Scores that are all alike, nearly and quite; sums of both sides that are folded.
    for (seed, (seq_len_q, seq_len_kv, scale)) in
        (0..).zip([(33, 1500, 1e-3), (33, 4200, 0.01), (4200, 33, 0.01), (40, 60, 0.0)])
    {
        let shape = Shape::new(1, 1, seq_len_q, 16).seq_len_kv(seq_len_kv);
        check(&Problem::new(shape).scale(scale), &Mask::All, &PLAIN, seed, unchanged);
    }
}

/// Packed, padded, cached and paged sequences, as far as they have gradients.
#[test]
fn forms_of_sequences() {
    if !has_matrices() {
        return;
    }
    let is_paged = |kv: KeySequences| matches!(kv, KeySequences::Paged { .. });
    let forms = FORMS.iter().filter(|(_, kv)| !is_paged(*kv));
    for (at, &(q, kv)) in forms.enumerate() {
        // Where rows lie is the same text in every kernel.
        if is_brief() && at % 3 != 1 {
            continue;
        }
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let (operands, problem) = (batch.operands(), batch.problem("causal").dtypes(F16));
        let operands = stored(operands, F16);
        let mut upstream = RandomUpstream::random(&batch.shape, 4);
        upstream.dout.iter_mut().for_each(|x| *x = Dtype::F16.round(*x));
        let truth = reference::gradients(&problem, &operands.inputs(), &upstream.of_o()).unwrap();
        let found = run(&problem, &operands, &upstream.of_o(), BackwardKernel::Matrix);
        let close = |name: &str, found: &[f32], truth: &[f64], at: usize| {
            let (x, y) = (f64::from(found[at]), truth[at]);
            // Sums of terms that are rounded to 11 bits.
            let largest = truth.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let near = (x - y).abs() <= 2e-3 * largest;
            assert!(near, "{name}, {q:?}, {kv:?}, at {at}: {x} instead of {y}");
        };
        for b in 0..LENGTHS.len() {
            for (_, at) in batch.q_elements(b) {
                close("dq", &found.dq, &truth.dq, at);
            }
            for (_, at) in batch.kv_elements(b) {
                close("dk", &found.dk, &truth.dk, at);
                close("dv", &found.dv, &truth.dv, at);
            }
        }
    }
}

#[test]
fn refusals_name_their_reason() {
    let refused = |kernels, problem: &Problem| {
        let options = BackwardOptions::default().kernel(BackwardKernel::Matrix);
        match BackwardPlan::new(kernels, problem, &options) {
            Err(Error::KernelRefused { kernel, reason }) => {
                assert_eq!(kernel, "matrix");
                reason
            }
            other => panic!("{other:?}"),
        }
    };
    let problem = Problem::new(Shape::new(1, 1, 64, 64)).dtypes(F16);
    let reason = refused(ATTENTION.kernels(), &problem);
    assert!(reason.contains("the device wasn't opened with"), "{reason}");
    if !has_matrices() {
        return;
    }
    for (problem, words) in [
        (Problem::new(Shape::new(1, 1, 64, 64)), "q, k and v in f16, here they are f32"),
        (problem.dtypes(F16.o(Dtype::F32)), "o and dout in f16, here they are f32"),
        (
            Problem::new(Shape::new(1, 1, 64, 64).head_dim_v(129)).dtypes(F16),
            "rows of at most 128 components, here they have 129",
        ),
    ] {
        let reason = refused(WITH_MATRICES.kernels(), &problem);
        assert!(reason.contains(words), "{reason}");
    }
}
