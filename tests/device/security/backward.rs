//! Backward passes.

use wgpu_attention::kernel::BackwardKernel;
use wgpu_attention::plan::{BackwardBuffers, BackwardOptions, GradientBuffers};
use wgpu_attention::wgsl::{WgslBuffer, WgslFunction};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxTensor, BackwardPlan, Layout, ScoreModifiers, Shape,
};

use super::{
    Bound, By, Case, Guarded, Rows, hostile_sequences, in_brief, masks, same_with_each_sentinel,
    submit, wandering,
};
use crate::backward::{RandomUpstream, kernels};
use crate::fixture::{ATTENTION, Operands, ScoreData};
use crate::sequences::{Batch, FORMS};

/// Every gradient that a case has, by a kernel, from the o and lse that the best forward kernel gives.
fn gradients(case: &Case<'_>, kernel: BackwardKernel, sentinel: u32) -> Vec<Vec<u32>> {
    let problem = &case.problem;
    let shape = problem.shape();
    let bound = Bound::new(case, sentinel);
    let upstream = RandomUpstream::random(shape, 5);
    let [q_rows, k_rows, v_rows, o_rows] = Rows::of(shape);
    let dout = Guarded::floats_apart(&o_rows, &upstream.dout, sentinel);
    let dlse = Guarded::floats(&upstream.dlse, sentinel);
    let written = |words| Guarded::written(words, sentinel);
    let lse = written(shape.lse_len().unwrap());
    let [o, dq, dk, dv] =
        [o_rows, q_rows, k_rows, v_rows].map(|rows| Guarded::written_apart(&rows, sentinel));
    let has = |input| problem.aux_tensors().contains(&input);
    let dbias = has(AuxTensor::Bias).then(|| written(shape.scores_len().unwrap()));
    let dsinks = has(AuxTensor::Sinks).then(|| written(shape.num_heads));
    let slopes = has(AuxTensor::AlibiSlopes).then(|| written(shape.num_heads));

    let learned = case.custom.as_ref().filter(|(name, _)| *name == LEARNED);
    let far = learned.map(|(_, words)| written(words.len()));
    let dcustom: Vec<_> = far.iter().map(|far| (LEARNED, far.slice())).collect();

    let forward = AttentionPlan::new(ATTENTION.kernels(), problem, &Default::default()).unwrap();
    let options = BackwardOptions::default().kernel(kernel);
    let plan = BackwardPlan::new(ATTENTION.kernels(), problem, &options).unwrap();
    let [q, k, v] = [&bound.q, &bound.k, &bound.v].map(Guarded::slice);
    let results =
        AttentionBuffers { q, k, v, aux: bound.mask(), o: o.slice(), lse: Some(lse.slice()) };
    let buffers = BackwardBuffers {
        q,
        k,
        v,
        o: o.slice(),
        lse: lse.slice(),
        dout: dout.slice(),
        dlse: Some(dlse.slice()),
        aux: bound.mask(),
        gradients: GradientBuffers::default()
            .dq(dq.slice())
            .dk(dk.slice())
            .dv(dv.slice())
            .dbias(dbias.as_ref().map(Guarded::slice))
            .dsinks(dsinks.as_ref().map(Guarded::slice))
            .dalibi_slopes(slopes.as_ref().map(Guarded::slice))
            .dcustom(&dcustom),
    };
    submit(|encoder| {
        forward.encode(encoder, &results).unwrap();
        plan.encode(encoder, &buffers).unwrap();
    });
    bound.check();
    let read = [("o", &o), ("lse", &lse), ("dout", &dout), ("dlse", &dlse)];
    let gradients = [("dq", &dq), ("dk", &dk), ("dv", &dv)].into_iter();
    let of_data =
        [("dbias", &dbias), ("dsinks", &dsinks), ("dalibi_slopes", &slopes), ("dcustom", &far)];
    let of_data = of_data.into_iter().filter_map(|(name, found)| Some((name, found.as_ref()?)));
    (read.into_iter().chain(gradients).chain(of_data))
        .map(|(name, guarded)| guarded.read(&format!("{name} of {kernel}, {problem:?}")))
        .collect()
}

fn check(by: By, case: &Case<'_>) {
    for kernel in by.of(kernels(&case.problem)) {
        let what = format!("{kernel}, {:?},", case.problem);
        same_with_each_sentinel(&what, |sentinel| gradients(case, kernel, sentinel));
    }
}

#[test]
fn hostile_data_of_masks() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let operands = Operands::random(&shape, 1);
    for (mask, case) in in_brief(masks(&operands, shape, 1)) {
        check(if mask == "documents" { By::All } else { By::Best }, &case);
    }
    check(By::All, &wandering(shape, &operands));
}

#[test]
fn data_of_scores() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let operands = Operands::random(&shape, 2);
    let scores = ScoreData::random(&shape, 2);
    let words = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let score = ScoreModifiers::default().softcap(50.0).bias(true).alibi(true).sinks(true);
    let (_, mut case) = masks(&operands, shape, 2).swap_remove(0);
    case.problem = case.problem.score(score);
    case.data.extend([
        (AuxTensor::Bias, words(&scores.bias)),
        (AuxTensor::AlibiSlopes, words(&scores.slopes)),
        (AuxTensor::Sinks, words(&scores.sinks)),
    ]);
    check(By::All, &case);
}

/// The buffer of a score function that has a gradient.
const LEARNED: &str = "far";

#[test]
fn hostile_indices_of_score_functions() {
    let shape = Shape::new(2, 4, 37, 20).seq_len_kv(41).num_kv_heads(2);
    let operands = Operands::random(&shape, 3);
    let text = "
        fn far_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 {
            return (q_idx ^ (0u - kv_idx)) * 0x01000193u + select(0u, 0xfffffff0u, h == 1u);
        }
        fn far_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }
        fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
            return score + far(far_index(b, h, q_idx, kv_idx));
        }
        fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }";
    let function = WgslFunction::new(text).unwrap().buffer(LEARNED, WgslBuffer::F32, 33).unwrap();
    let (_, mut case) = masks(&operands, shape, 3).swap_remove(0);
    case.problem = case.problem.score_mod(function);
    case.custom = Some((LEARNED, (0..33).map(|x| (x as f32 / 16.0).to_bits()).collect()));
    check(By::Best, &case);
}

#[test]
fn hostile_lengths_and_starts() {
    for &(q, kv) in FORMS {
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let operands = batch.operands();
        for turn in 0..2 {
            check(By::Best, &hostile_sequences(&batch, &operands, turn));
        }
    }
}
