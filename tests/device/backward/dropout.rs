//! Gradients through dropout: those of what the forward pass gave with the same seed. A brief run takes a third of the masks,
//! modifiers and forms of sequences: all of them have gradients without dropout, and dropout forward, in other tests.

use wgpu_attention::{Dtype, Layout, Mask, Problem, Shape, reference};

use super::{RandomUpstream, assert_all_close, check_kernels, check_problem, kernels, run};
use crate::fixture::{Operands, SCORES, ScoreData, masks_of_this_run, step_of_this_run};
use crate::sequences::{Batch, FORMS, LENGTHS};
use crate::tolerance::naive_gradients_modified;

#[test]
fn every_mask() {
    for (seed, mask) in (0..).zip(masks_of_this_run()).step_by(step_of_this_run(3)) {
        let shape = Shape::new(2, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
        let mask: Mask = mask.parse().unwrap();
        let problem = Problem::new(shape).mask(mask.clone()).dropout(0.3);
        let kernels = kernels(&problem);
        let kernels = if seed % 5 == 0 { &kernels[..] } else { &kernels[..1] };
        check_kernels(&problem, &mask, &Operands::random(&shape, seed), seed, kernels);
    }
}

#[test]
fn any_share_on_awkward_sizes() {
    for (seed, p) in (0..).zip([1e-4, 0.5, 0.9]) {
        for (seq_len_q, seq_len_kv, head_dim) in [(1, 1, 3), (65, 33, 64), (113, 127, 20)] {
            let shape = Shape::new(2, 2, seq_len_q, head_dim).seq_len_kv(seq_len_kv);
            let problem = Problem::new(shape).mask(Mask::causal()).dropout(p);
            check_problem(&problem, &Mask::causal(), &Operands::random(&shape, seed), seed);
        }
    }
}

/// Rows so long that their sums are folded, and that the score cache of kernels for CPU adapters has chunks.
#[test]
fn long_rows() {
    for (seq_len_q, seq_len_kv) in [(217, 1023), (1023, 257)] {
        let shape = Shape::new(1, 2, seq_len_q, 20).seq_len_kv(seq_len_kv).num_kv_heads(1);
        let problem = Problem::new(shape).mask(Mask::causal()).dropout(0.2);
        check_problem(&problem, &Mask::causal(), &Operands::random(&shape, 2), 2);
    }
}

#[test]
fn with_every_modifier() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(70).num_kv_heads(2);
    let mask: Mask = "causal & key_lengths".parse().unwrap();
    let data = ScoreData::random(&shape, 3);
    let mut operands = Operands::random(&shape, 3);
    operands.mask = data.add_to(&shape, operands.mask);
    let upstream = RandomUpstream::random(&shape, 3);
    let (inputs, upstream) = (operands.inputs(), upstream.of_o_and_lse());
    for score in SCORES.iter().rev().step_by(step_of_this_run(3)).copied() {
        let problem = Problem::new(shape).mask(mask.clone()).score(score).dropout(0.3);
        let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
        let naive = naive_gradients_modified(
            &problem,
            &mask,
            &inputs,
            &upstream,
            &score,
            &data,
            Dtype::F32,
        );
        // As without dropout: the best kernel takes each modifier alone, all take them together.
        let kernels = kernels(&problem);
        let together = score.softcap.is_some() && score.bias;
        for &kernel in if together { &kernels[..] } else { &kernels[..1] } {
            let found = run(&problem, &operands, &upstream, kernel);
            assert_all_close(&format!("{kernel}, {score:?}"), &found, &naive, &truth);
        }
    }
}

/// Packed, padded and cached sequences have the gradients of the reference, whose positions are the sequence's own.
#[test]
fn every_form_of_sequences() {
    for &(q, kv) in FORMS.iter().step_by(step_of_this_run(3)) {
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let (operands, problem) = (batch.operands(), batch.problem("causal").dropout(0.3));
        let upstream = RandomUpstream::random(&batch.shape, 4);
        let truth = reference::gradients(&problem, &operands.inputs(), &upstream.of_o()).unwrap();
        for kernel in kernels(&problem) {
            let found = run(&problem, &operands, &upstream.of_o(), kernel);
            let close = |name: &str, found: &[f32], truth: &[f64], at: usize| {
                let (x, y) = (f64::from(found[at]), truth[at]);
                let near = (x - y).abs() <= 1e-4 * y.abs().max(1.0);
                assert!(near, "{name} of {kernel}, {kv:?}, at {at}: {x} instead of {y}");
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
}
