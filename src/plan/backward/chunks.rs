//! The order of a backward pass: rows by chunks, where dk and dv are made of what those of a chunk leave behind.

use std::ops::Range;

use crate::kernel::cpu::broadcast::{cell_bytes, most_cell_bytes};
use crate::kernel::key::BackwardConfig;
use crate::kernel::params::Params;
use crate::plan::pieces::Pieces;
use crate::plan::work::Stage;
use crate::problem::Resolved;

/// The workgroups that make dq, and those that make dk and dv, of the heads that these have rows of: all of both, or, where
/// the latter go by what the former leave behind, as many as there is room for.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Chunk {
    pub(super) fn all(
        problem: &Resolved,
        config: &BackwardConfig,
        limits: &wgpu::Limits,
        rows: usize,
        columns: usize,
    ) -> Vec<Self> {
        let bytes = cell_bytes(problem, config);
        if bytes == 0 || rows == 0 || columns == 0 {
            return vec![Self { rows: 0..rows, columns: 0..columns }];
        }
        let shape = &problem.shape;
        let (heads, kv_heads) = (shape.batch * shape.num_heads, shape.batch * shape.num_kv_heads);
        // The rows of heads that share their keys.
        let rows_of_group = rows / heads * shape.group_size();
        let columns_of_head = columns / kv_heads;
        let most = (most_cell_bytes(limits) / bytes).max(1) as usize;
        (0..rows)
            .step_by(most)
            .map(|start| {
                let end = rows.min(start + most);
                let kv = start / rows_of_group..(end - 1) / rows_of_group + 1;
                let columns = kv.start * columns_of_head..kv.end * columns_of_head;
                Self { rows: start..end, columns }
            })
            .collect()
    }

    /// `Grid::workgroups` has refused what 32 bits don't count.
    pub(super) const fn params(&self, params: Params) -> Params {
        Params {
            cells_first_workgroup: self.rows.start as u32,
            cells_end_workgroup: self.rows.end as u32,
            ..params
        }
    }
}

/// Stage after stage, but chunk after chunk where there are several; of a chunk, slice after slice of its rows' components.
pub(super) fn order_of(pieces: &[Pieces], chunks: usize) -> Vec<(Stage, usize)> {
    let all = |stage: Stage| (0..pieces[stage as usize].count()).map(move |piece| (stage, piece));
    let mut order: Vec<_> = all(Stage::Terms).collect();
    for chunk in 0..chunks {
        for stage in [Stage::Dq, Stage::DkDv] {
            let pieces = &pieces[stage as usize];
            let shares = pieces.shares() / chunks;
            let own =
                (chunk * shares..(chunk + 1) * shares).flat_map(|share| pieces.of_share(share));
            order.extend(own.map(|piece| (stage, piece)));
        }
    }
    order.extend(
        [
            Stage::SecondDkDv,
            Stage::Bias,
            Stage::Sinks,
            Stage::Slopes,
            Stage::PagesDk,
            Stage::PagesDv,
        ]
        .into_iter()
        .flat_map(all),
    );
    // The sums of a chunk's workgroups are added up before the next chunk takes their place.
    let [custom, sums] = [Stage::Custom, Stage::CustomSums].map(|stage| &pieces[stage as usize]);
    for chunk in 0..custom.shares() {
        let buffers = sums.shares() / custom.shares();
        order.extend(custom.of_share(chunk).map(|piece| (Stage::Custom, piece)));
        let of_chunk = (chunk * buffers..(chunk + 1) * buffers).flat_map(|at| sums.of_share(at));
        order.extend(of_chunk.map(|piece| (Stage::CustomSums, piece)));
    }
    order
}
