//! Forward passes, keep masks and tile classes.

use wgpu_attention::kernel::ForwardKernel;
use wgpu_attention::plan::{MaskFormat, MaskPlan, PlanOptions, TilePlan};
use wgpu_attention::tensor::{KeySequences, QuerySequences};
use wgpu_attention::{AttentionBuffers, AttentionPlan, AuxTensor, Layout, Shape};

use super::{
    Bound, By, Case, Guarded, Rows, hostile, hostile_sequences, masks, same_with_each_sentinel,
    submit, wandering,
};
use crate::fixture::{ATTENTION, Operands, kernels};
use crate::sequences::{Batch, FORMS};

/// What a kernel makes of a case: o, lse, keep mask and tile classes.
fn everything(case: &Case<'_>, kernel: ForwardKernel, sentinel: u32) -> Vec<Vec<u32>> {
    let problem = &case.problem;
    let bound = Bound::new(case, sentinel);
    let shape = problem.shape();
    let [.., o] = Rows::of(shape);
    let o = Guarded::written_apart(&o, sentinel);
    let lse = Guarded::written(shape.lse_len().unwrap(), sentinel);
    let plan =
        AttentionPlan::new(ATTENTION.kernels(), problem, &PlanOptions::default().kernel(kernel))
            .unwrap();
    let buffers = AttentionBuffers {
        q: bound.q.slice(),
        k: bound.k.slice(),
        v: bound.v.slice(),
        aux: bound.mask(),
        o: o.slice(),
        lse: Some(lse.slice()),
    };
    let keep = MaskPlan::new(ATTENTION.kernels(), problem, MaskFormat::Keep).unwrap();
    let keep_mask = Guarded::written(keep.dims().iter().product(), sentinel);
    let tiles = TilePlan::new(ATTENTION.kernels(), problem, &Default::default()).unwrap();
    let classes = Guarded::written(tiles.dims().iter().product(), sentinel);
    submit(|encoder| {
        plan.encode(encoder, &buffers).unwrap();
        keep.encode(encoder, &bound.mask(), keep_mask.slice()).unwrap();
        tiles.encode(encoder, &bound.mask(), classes.slice()).unwrap();
    });
    bound.check();
    [("o", &o), ("lse", &lse), ("keep mask", &keep_mask), ("tile classes", &classes)]
        .map(|(name, guarded)| guarded.read(&format!("{name} of {kernel}, {problem:?}")))
        .to_vec()
}

fn check(by: By, case: &Case<'_>) {
    for kernel in by.of(kernels(&case.problem)) {
        let what = format!("{kernel}, {:?},", case.problem);
        same_with_each_sentinel(&what, |sentinel| everything(case, kernel, sentinel));
    }
}

#[test]
fn hostile_ids_tables_and_ranges() {
    let shape = Shape::new(2, 2, 37, 20).seq_len_kv(41);
    let operands = Operands::random(&shape, 1);
    for turn in 0..3 {
        for (mask, case) in masks(&operands, shape, turn) {
            check(if mask == "documents" { By::All } else { By::Best }, &case);
        }
    }
    // Parents that are one's own or lie behind: the walk ends all the same.
    let tree = masks(&operands, shape, 0).into_iter().find(|(mask, _)| *mask == "tree");
    let problem = tree.expect("there is a tree").1.problem;
    let own: Vec<u32> = (0..74).map(|at| at % 37).collect();
    let next: Vec<u32> = (0..74).map(|at| (at + 1) % 37).collect();
    for parents in [own, next] {
        let data = vec![(AuxTensor::TreeParents, parents)];
        check(By::Best, &Case::new(problem.clone(), &operands, data));
    }
}

#[test]
fn hostile_lengths_starts_and_block_tables() {
    for &(q, kv) in FORMS {
        let batch = Batch::new(q, kv, Layout::Bhsd);
        let operands = batch.operands();
        for turn in 0..3 {
            check(By::Best, &hostile_sequences(&batch, &operands, turn));
        }
    }
    // Lengths that are right, so that every entry of the table is followed.
    let paged = KeySequences::Paged { block_size: 16, blocks: 23, blocks_per_sequence: 6 };
    let batch = Batch::new(QuerySequences::LeftPadded, paged, Layout::Bhsd);
    let operands = batch.operands();
    for turn in 0..3 {
        let sequences = batch.shape.batch;
        let data = vec![
            (AuxTensor::QLengths, vec![40; sequences]),
            (AuxTensor::KvLengths, vec![65; sequences]),
            (AuxTensor::BlockTables, hostile(sequences * 6, turn)),
        ];
        check(By::All, &Case::new(batch.problem("all"), &operands, data));
    }
}

#[test]
fn hostile_indices_of_functions() {
    let shape = Shape::new(1, 2, 37, 20).seq_len_kv(41);
    check(By::All, &wandering(shape, &Operands::random(&shape, 3)));
}
