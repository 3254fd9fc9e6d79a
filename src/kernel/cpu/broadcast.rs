//! `broadcast`, and its counterparts of the backward pass: how many rows a lane has, and how many it sums up at a time.

use super::lanes::{lane_row_format, lanes};
use crate::kernel::key::{
    BackwardConfig, BackwardForm, ForwardConfig, ForwardForm, RowLength, SumSteps, Windowed,
};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{
    CAPACITIES, backward_row_format, dkdv_folds, dq_folds, folds, row_capacity,
};
use crate::mask::tile::TileGrid;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::{Dtype, GradientDtypes};

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
) -> Result<ForwardConfig, String> {
    let (subgroup_size, rows_format) = lanes(problem, device)?;
    let shape = &problem.shape;
    let (head_dim, head_dim_v) =
        (row_capacity(shape.head_dim, &CAPACITIES), row_capacity(shape.head_dim_v, &CAPACITIES));
    let rows = broadcast_rows(both(head_dim, head_dim_v));
    Ok(ForwardConfig {
        grid: TileGrid { block_q: subgroup_size * rows, block_kv: subgroup_size },
        head_dim,
        head_dim_v,
        rows: rows_format,
        folds: folds(problem),
        windows: Windowed::default(),
        form: ForwardForm::Broadcast {
            subgroup_size,
            rows,
            sum_steps: forward_sum_steps(subgroup_size, head_dim_v),
        },
    })
}

/// Other tiles for a config of the table.
pub(in crate::kernel) fn variants(config: ForwardConfig) -> Vec<ForwardConfig> {
    let ForwardForm::Broadcast { subgroup_size, rows, sum_steps } = config.form else {
        return Vec::new();
    };
    let widest = config.head_dim.capacity.max(config.head_dim_v.capacity);
    // Longer columns of registers take too long to compile.
    let others = [1, 2, 4, 8].into_iter().filter(|&n| n != rows && n * widest <= 512);
    let with = |rows| ForwardConfig {
        grid: TileGrid { block_q: subgroup_size * rows, ..config.grid },
        form: ForwardForm::Broadcast { subgroup_size, rows, sum_steps },
        ..config
    };
    others.map(with).collect()
}

/// How many rows of its own a lane of `broadcast` has: each load and broadcast serves all of them, but more, and their
/// registers outgrow a core's caches and take seconds to compile, as rows do that end within a large room.
const fn broadcast_rows(longest: RowLength) -> usize {
    match longest.capacity {
        0..=64 => 4,
        65..=128 if longest.exact => 4,
        _ => 2,
    }
}

/// What rows of q and k and those of v need together.
fn both(head_dim: RowLength, head_dim_v: RowLength) -> RowLength {
    RowLength {
        capacity: head_dim.capacity.max(head_dim_v.capacity),
        exact: head_dim.exact && head_dim_v.exact,
    }
}

/// How many rows of any of `lengths` are summed up at a time: `rows`, if there are as many lanes, or as many more as it takes
/// for the lanes that share them to have equally many vectors of each.
fn sum_step(subgroup_size: usize, lengths: &[RowLength], rows: usize) -> usize {
    let mut rows = rows.min(subgroup_size);
    let shared_equally =
        |length: &RowLength, rows| length.capacity.is_multiple_of(4 * subgroup_size / rows);
    while !lengths.iter().all(|length| shared_equally(length, rows)) {
        rows *= 2;
    }
    rows
}

/// All rows of a tile at once, so that nothing is merged by the mask of lanes within it; but half of long ones, whose machine
/// code compiles in half the time. For the same reason PARTIAL tiles, which have code of their own, take few.
fn forward_sum_steps(subgroup_size: usize, length: RowLength) -> SumSteps {
    let (full, partial) = match length.capacity {
        0..=32 => (8, 8),
        33..=64 => (8, 2),
        65..=96 => (8, 1),
        _ => (4, 1),
    };
    let step = |rows| sum_step(subgroup_size, &[length], rows);
    SumSteps { full: step(full), partial: Some(step(partial)) }
}

/// As in the forward pass, but few of long rows, and with one code for tiles of all kinds: the dk/dv pass sums up two tensors.
/// Rows of q and k and those of dout may differ in length.
fn backward_sum_steps(
    subgroup_size: usize,
    head_dim: RowLength,
    head_dim_v: RowLength,
    cells: bool,
) -> SumSteps {
    let (full, partial) = match both(head_dim, head_dim_v).capacity {
        0..=32 => (8, Some(8)),
        33..=64 => (if cells { 8 } else { 2 }, Some(2)),
        _ => (2, None),
    };
    let step = |rows| sum_step(subgroup_size, &[head_dim, head_dim_v], rows);
    SumSteps { full: step(full), partial: partial.map(step) }
}

pub(in crate::kernel) fn backward(
    problem: &Resolved,
    strides: &GradientStrides,
    gradients: GradientDtypes,
    device: &DeviceTraits,
) -> Result<BackwardConfig, String> {
    let ForwardConfig { head_dim, head_dim_v, form, .. } = forward(problem, device)?;
    let ForwardForm::Broadcast { subgroup_size, .. } = form else {
        return Err("it needs subgroups".to_owned());
    };
    let longest = both(head_dim, head_dim_v);
    let long = longest.capacity > 64;
    let rows = broadcast_rows(longest);
    let of = |cells: bool| {
        // Of k and v as well, long ones would take too long to compile.
        let keys = if cells || !long { rows } else { 2 };
        BackwardConfig {
            dq_grid: TileGrid { block_q: subgroup_size * rows, block_kv: subgroup_size },
            dkdv_grid: TileGrid { block_q: subgroup_size, block_kv: subgroup_size * keys },
            head_dim,
            head_dim_v,
            rows: lane_row_format(backward_row_format(problem, strides), device),
            gradients,
            dq_folds: dq_folds(problem, gradients),
            dkdv_folds: dkdv_folds(problem, gradients),
            dq_windows: Windowed::default(),
            dkdv_windows: Windowed::default(),
            form: BackwardForm::Broadcast {
                subgroup_size,
                sum_steps: backward_sum_steps(subgroup_size, head_dim, head_dim_v, cells),
                cells,
            },
        }
    };
    // Short rows are multiplied again in less time than they are kept. A bias takes the binding that cells would need; and
    // sums go on from chunk to chunk in dk and dv themselves, in one run.
    let cells = longest.capacity > 16
        && !dkdv_folds(problem, gradients)
        && !problem.score.bias
        && [gradients.dk, gradients.dv] == [Dtype::F32; 2]
        && cell_bytes(problem, &of(true)) <= most_cell_bytes(&device.limits);
    Ok(of(cells))
}

/// What the kernel for dq leaves of a workgroup's rows for the one for dk and dv, in bytes: a weight and the gradient of a
/// score for each cell, where it does.
pub(crate) fn cell_bytes(problem: &Resolved, config: &BackwardConfig) -> u64 {
    if !config.form.has_cells() {
        return 0;
    }
    let TileGrid { block_q, block_kv } = config.dq_grid;
    let keys = problem.shape.seq_len_kv.div_ceil(block_kv).saturating_mul(block_kv);
    (keys as u64).saturating_mul(block_q as u64 * 8)
}

/// How many bytes of these there may be at a time: enough rows for all of a CPU's cores.
pub(crate) fn most_cell_bytes(limits: &wgpu::Limits) -> u64 {
    limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(64 << 20)
}
#[cfg(test)]
mod tests {
    use super::*;

    /// What isn't shared equally is an index beyond the sums, which nothing checks on a device.
    #[test]
    fn lanes_share_rows_of_either_length_equally() {
        let length = |capacity| RowLength { capacity, exact: true };
        for subgroup_size in [4, 8, 16, 32] {
            for (capacity, capacity_v) in
                CAPACITIES.iter().flat_map(|q| CAPACITIES.iter().map(move |v| (*q, *v)))
            {
                let forward = forward_sum_steps(subgroup_size, length(capacity_v));
                let check = |steps: SumSteps, capacities: &[usize]| {
                    for rows in [Some(steps.full), steps.partial].into_iter().flatten() {
                        for capacity in capacities {
                            let vectors = capacity / 4;
                            let lanes = subgroup_size / rows;
                            assert!(
                                rows <= subgroup_size && vectors.is_multiple_of(lanes),
                                "{subgroup_size}: {vectors} vectors, {lanes} lanes"
                            );
                        }
                    }
                };
                check(forward, &[capacity_v]);
                for cells in [false, true] {
                    let lengths = [capacity, capacity_v].map(length);
                    let backward = backward_sum_steps(subgroup_size, lengths[0], lengths[1], cells);
                    check(backward, &[capacity, capacity_v]);
                }
            }
        }
    }
}
