//! Decode: few queries, keys in parts, and their merge.

use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::PlanOptions;
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{AttentionBuffers, AttentionPlan, AuxTensor, Shape};

use super::{
    Bound, By, Case, Guarded, Rows, hostile, in_brief, masks, same_with_each_sentinel, submit,
    wandering,
};
use crate::fixture::{ATTENTION, Operands, serving};

/// o and lse of a decode kernel.
fn decode(case: &Case<'_>, kernel: ForwardKernel, splits: usize, sentinel: u32) -> [Vec<u32>; 2] {
    let problem = &case.problem;
    let bound = Bound::new(case, sentinel);
    let [.., o] = Rows::of(problem.shape());
    let o = Guarded::written_apart(&o, sentinel);
    let lse = Guarded::written(problem.shape().lse_len().unwrap(), sentinel);
    let (kernels, kernel) = (ATTENTION.kernels(), Some(kernel));
    let plan = AttentionPlan::new(
        kernels,
        problem,
        &PlanOptions::default().kernel(kernel).num_splits(splits),
    )
    .unwrap();
    let buffers = AttentionBuffers {
        q: bound.q.slice(),
        k: bound.k.slice(),
        v: bound.v.slice(),
        aux: bound.mask(),
        o: o.slice(),
        lse: Some(lse.slice()),
    };
    submit(|encoder| plan.encode(encoder, &buffers).unwrap());
    bound.check();
    [o.read("o"), lse.read("lse")]
}

/// In three parts, and undivided where all kernels are concerned.
fn check(by: By, case: &Case<'_>) {
    let splits = match by {
        By::Best => vec![3],
        By::All => vec![1, 3],
    };
    for kernel in by.of(serving(&case.problem, true)) {
        for &splits in &splits {
            let what = format!("{kernel}, {splits} splits, {:?},", case.problem);
            same_with_each_sentinel(&what, |sentinel| decode(case, kernel, splits, sentinel));
        }
    }
}

#[test]
fn hostile_data_of_masks() {
    let shape = Shape::new(2, 4, 3, 20).seq_len_kv(203).num_kv_heads(2);
    let operands = Operands::random(&shape, 4);
    for (mask, case) in in_brief(masks(&operands, shape, 1)) {
        check(if mask == "documents" { By::All } else { By::Best }, &case);
    }
    check(By::All, &wandering(shape, &operands));
}

/// Caches of every form, their lengths hostile; and tables, all entries of which are followed.
#[test]
fn hostile_caches() {
    let paged = KeySequences::Paged { block_size: 16, blocks: 23, blocks_per_sequence: 6 };
    for (at, kv) in [paged, KeySequences::Ring, KeySequences::Cached { left_padded: true }]
        .into_iter()
        .enumerate()
    {
        for q in [QuerySequences::Uniform, QuerySequences::LeftPadded] {
            let shape = Shape::new(3, 4, 3, 20).seq_len_kv(90).num_kv_heads(2);
            let shape = shape.sequences(Sequences { q, kv });
            let operands = Operands {
                q: vec![0.5; shape.q_len().unwrap()],
                k: (0..shape.k_len().unwrap()).map(|x| (x % 91) as f32 / 9.0).collect(),
                v: (0..shape.v_len().unwrap()).map(|x| (x % 97) as f32 - 48.0).collect(),
                mask: Default::default(),
            };
            let problem = wgpu_attention::Problem::new(shape).mask("causal".parse().unwrap());
            for right_lengths in [false, true] {
                let words = |input| match input {
                    AuxTensor::BlockTables => hostile(18, 1),
                    AuxTensor::KvLengths if right_lengths => vec![90; 3],
                    AuxTensor::QLengths if right_lengths => vec![3; 3],
                    // Two of the sequences start before they end.
                    AuxTensor::KvFirst => vec![3, u32::MAX, 0],
                    _ => hostile(3, 2),
                };
                let data = problem.aux_tensors().into_iter().map(|input| (input, words(input)));
                let case = Case::new(problem.clone(), &operands, data.collect());
                check(if at == 0 { By::All } else { By::Best }, &case);
            }
        }
    }
}
