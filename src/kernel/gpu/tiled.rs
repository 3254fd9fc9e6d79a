//! `tiled`, and its counterparts of the backward pass: a workgroup's invocations share a tile, staged in workgroup memory.

use crate::kernel::key::{BackwardConfig, BackwardForm, ForwardConfig, ForwardForm};
use crate::kernel::limits::Needs;
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{
    CAPACITIES, backward_row_format, dkdv_folds, dq_folds, folds, row_capacity, row_format,
};
use crate::mask::tile::TileGrid;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::GradientDtypes;

pub(in crate::kernel) fn forward(problem: &Resolved, registers: usize) -> ForwardConfig {
    let shape = &problem.shape;
    let few_registers = registers <= 128;
    let capacities: &[usize] =
        if few_registers { &[32, 64, 128, 256] } else { &[32, 64, 128, 192, 256] };
    let head_dim_v = row_capacity(shape.head_dim_v, capacities);
    // The output's registers per invocation: 4 rows of capacity / threads_per_row components.
    let (threads_per_row, v_keys) = match (head_dim_v.capacity, few_registers) {
        (0..=64, _) => (8, 16),
        (65..=128, false) => (8, 8),
        (65..=128, true) => (16, 8),
        (_, false) => (16, 4),
        (_, true) => (32, 4),
    };
    // Few queries would leave the other half of a block's rows without work; a workgroup has up to 256 invocations.
    let block_q = if shape.seq_len_q <= 32 || threads_per_row == 32 { 32 } else { 64 };
    ForwardConfig {
        grid: TileGrid { block_q, block_kv: 32 },
        head_dim: row_capacity(shape.head_dim, &CAPACITIES),
        head_dim_v,
        rows: row_format(problem),
        folds: folds(problem),
        form: ForwardForm::Tiled { threads_per_row, chunk: 16, v_keys },
    }
}

/// Other tiles for a config of the table.
pub(in crate::kernel) fn variants(
    config: ForwardConfig,
    device: &DeviceTraits,
) -> Vec<ForwardConfig> {
    let ForwardForm::Tiled { threads_per_row, chunk, v_keys } = config.form else {
        return Vec::new();
    };
    let with = |block_q, threads_per_row| ForwardConfig {
        grid: TileGrid { block_q, ..config.grid },
        form: ForwardForm::Tiled { threads_per_row, chunk, v_keys },
        ..config
    };
    let fits = |config: &ForwardConfig, threads_per_row: usize| {
        // A bias is the same to all of them.
        Needs::of_forward(config, false).refusal(&device.limits).is_ok()
            && config.head_dim_v.capacity.is_multiple_of(4 * threads_per_row)
            // The output's registers per invocation: 4 rows of so many components.
            && config.head_dim_v.capacity <= 16 * threads_per_row
    };
    let block_q = config.grid.block_q;
    let other_threads = [4, 8, 16].into_iter().filter(|&n| n != threads_per_row);
    let other_rows = [32, 64].into_iter().filter(|&n| n != block_q);
    (other_threads.map(|threads_per_row| (block_q, threads_per_row)))
        .chain(other_rows.map(|block_q| (block_q, threads_per_row)))
        .map(|(block_q, threads_per_row)| (with(block_q, threads_per_row), threads_per_row))
        .filter(|(config, threads_per_row)| fits(config, *threads_per_row))
        .map(|(config, _)| config)
        .collect()
}

pub(in crate::kernel) fn backward(
    problem: &Resolved,
    strides: &GradientStrides,
    gradients: GradientDtypes,
    registers: usize,
) -> BackwardConfig {
    let shape = &problem.shape;
    // The sums' registers per invocation: 4 rows of capacity / threads_per_row components, of dk and of dv.
    let (threads_per_row, own) = match (shape.head_dim.max(shape.head_dim_v), registers) {
        (0..=64, 0..=128) => (16, 64),
        (0..=64, _) => (8, 64),
        (65..=128, 0..=128) => (32, 32),
        (129.., 0..=128) => (32, 16),
        (129.., 129..=192) => (32, 32),
        _ => (16, 64),
    };
    let capacities: &[usize] = match threads_per_row {
        8 => &[32, 64],
        16 => &[64, 128, 192, 256],
        _ => &[128, 256],
    };
    let (head_dim, head_dim_v) =
        (row_capacity(shape.head_dim, capacities), row_capacity(shape.head_dim_v, capacities));
    let other = 32;
    BackwardConfig {
        dq_grid: TileGrid { block_q: own, block_kv: other },
        dkdv_grid: TileGrid { block_q: other, block_kv: own },
        head_dim,
        head_dim_v,
        rows: backward_row_format(problem, strides),
        gradients,
        dq_folds: dq_folds(problem, gradients),
        dkdv_folds: dkdv_folds(problem, gradients),
        form: BackwardForm::Tiled {
            threads_per_row,
            chunk: 16,
            staged_rows: (1024 / head_dim.capacity.max(head_dim_v.capacity))
                .min(16)
                .next_power_of_two(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problem;
    use crate::tensor::dtype::Dtype;
    use crate::tensor::shape::Shape;

    /// What an invocation adds up is in registers, with room for the rest. How much that needs, `cargo xtask isa` shows.
    #[test]
    fn sums_leave_registers_for_the_rest() {
        for registers in [128, 192, 255] {
            for head_dim in [32, 64, 128, 192, 256] {
                let problem = Problem::new(Shape::new(1, 1, 64, head_dim));
                let problem = Resolved::new(problem).unwrap();
                let config = forward(&problem, registers);
                let ForwardForm::Tiled { threads_per_row, .. } = config.form else {
                    panic!("{config:?}")
                };
                assert!(
                    4 * config.head_dim_v.capacity / threads_per_row <= registers / 3,
                    "{config:?}"
                );
                assert!(config.grid.block_q / 4 * threads_per_row <= 256, "{config:?}");

                let rows = problem.strides();
                let strides = GradientStrides { dout: rows.o, dq: rows.q, dk: rows.k, dv: rows.v };
                let config = backward(&problem, &strides, Dtype::F32.into(), registers);
                let BackwardForm::Tiled { threads_per_row, .. } = config.form else {
                    panic!("{config:?}")
                };
                let sums = 4 * (config.head_dim.capacity + config.head_dim_v.capacity);
                assert!(sums / threads_per_row <= registers.div_ceil(2), "{config:?}");
                assert!(config.dq_grid.block_q / 4 * threads_per_row <= 256, "{config:?}");
                // Each has a score of every row, and bits for the tile's rows are in one word.
                let other = config.dq_grid.block_kv;
                assert!(other >= threads_per_row && other <= 32, "{config:?}");
            }
        }
    }
}
