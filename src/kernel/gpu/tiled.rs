//! `tiled`, and its counterparts of the backward pass: a workgroup's invocations share a tile, staged in workgroup memory.

use crate::kernel::key::{
    BackwardConfig, BackwardForm, ForwardConfig, ForwardForm, RowLength, Slices, Windowed,
};
use crate::kernel::limits::Needs;
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{
    CAPACITIES, backward_row_format, dkdv_folds, dq_folds, folds, row_capacity, row_format,
};
use crate::mask::tile::TileGrid;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::GradientDtypes;

/// In steps of 64 keys where the device has the workgroup memory, else of 32: see docs/decisions/0024-work-per-step.md.
pub(in crate::kernel) fn forward(problem: &Resolved, device: &DeviceTraits) -> ForwardConfig {
    let config = forward_tiles(problem, device.registers, 64);
    match Needs::of_forward(&config, problem.score.bias).refusal(&device.limits) {
        Ok(()) => config,
        Err(_) => forward_tiles(problem, device.registers, 32),
    }
}

fn forward_tiles(problem: &Resolved, registers: usize, most_keys: usize) -> ForwardConfig {
    let shape = &problem.shape;
    let few_registers = registers <= 128;
    let capacities: &[usize] = match few_registers {
        true => &[32, 64, 128, 256, 384, 512, 640],
        false => &[32, 64, 128, 192, 256, 384, 512, 640],
    };
    let head_dim_v = row_capacity(shape.head_dim_v, capacities);
    let block_kv = match (head_dim_v.capacity, registers) {
        // A thread would have 8 keys' scores, or more than there are registers for beside its components of the output.
        (0..=32 | 257.., _) | (65..=128, 0..=64) => 32,
        _ => most_keys,
    };
    // The output's registers per invocation: 4 rows of o_slice / threads_per_row components. Of 64 queries and 64 keys, 256
    // invocations stage a vector each of q, k and v at a time.
    let (threads_per_row, v_keys) = match (head_dim_v.capacity, few_registers) {
        (33..=64, _) if block_kv == 64 || registers <= 64 => (16, 16),
        (0..=64, _) => (8, 16),
        (65..=128, false) if block_kv == 32 => (8, 8),
        (65..=128, _) => (16, 8),
        (129..=256, false) => (16, 4),
        _ => (32, 4),
    };
    let longest = match registers {
        0..=64 => 256,
        65..=128 => 512,
        _ => 640,
    };
    let o_slice = longest_slice(head_dim_v, longest);
    // Few queries would leave the other half of a block's rows without work; a workgroup has up to 256 invocations.
    let block_q = if shape.seq_len_q <= 32 || threads_per_row == 32 { 32 } else { 64 };
    ForwardConfig {
        grid: TileGrid { block_q, block_kv },
        head_dim: row_capacity(shape.head_dim, &CAPACITIES),
        head_dim_v: filled(head_dim_v, o_slice, head_dim_v.capacity.div_ceil(o_slice)),
        rows: row_format(problem),
        folds: folds(problem),
        windows: Windowed::default(),
        form: ForwardForm::Tiled { threads_per_row, chunk: 16, v_keys, o_slice },
    }
}

/// Components of a row that 32 threads have a vector of.
const STEP: usize = 4 * 32;

/// One of `slices` equal slices of a row: whole vectors of 32 threads, if it is cut.
const fn slice(row: RowLength, slices: usize) -> usize {
    match slices {
        1 => row.capacity,
        _ => row.capacity.div_ceil(slices).next_multiple_of(STEP),
    }
}

/// The same of as few as have at most `most` components.
const fn longest_slice(row: RowLength, most: usize) -> usize {
    slice(row, row.capacity.div_ceil(most))
}

/// A row as the dispatches for so many slices read it: where these reach beyond it, it ends within them.
const fn filled(row: RowLength, slice: usize, slices: usize) -> RowLength {
    RowLength { exact: row.exact && slice * slices == row.capacity, ..row }
}

/// Other tiles for a config of the table.
pub(in crate::kernel) fn variants(
    config: ForwardConfig,
    device: &DeviceTraits,
) -> Vec<ForwardConfig> {
    let ForwardForm::Tiled { threads_per_row, chunk, v_keys, o_slice } = config.form else {
        return Vec::new();
    };
    let TileGrid { block_q, block_kv } = config.grid;
    let with = |block_q, block_kv, threads_per_row| ForwardConfig {
        grid: TileGrid { block_q, block_kv },
        form: ForwardForm::Tiled { threads_per_row, chunk, v_keys, o_slice },
        ..config
    };
    let fits = |config: &ForwardConfig, threads_per_row: usize| {
        // A bias is the same to all of them.
        Needs::of_forward(config, false).refusal(&device.limits).is_ok()
            && o_slice.is_multiple_of(4 * threads_per_row)
            // The output's registers per invocation: 4 rows of so many components; and those of as many keys' scores.
            && o_slice <= 16 * threads_per_row
            && config.grid.block_kv <= MOST_KEYS * threads_per_row
    };
    let other_threads = [4, 8, 16].into_iter().filter(|&n| n != threads_per_row);
    let other_rows = [32, 64].into_iter().filter(|&n| n != block_q);
    let other_keys = [32, 64].into_iter().filter(|&n| n != block_kv);
    (other_threads.map(|threads_per_row| (block_q, block_kv, threads_per_row)))
        .chain(other_rows.map(|block_q| (block_q, block_kv, threads_per_row)))
        .chain(other_keys.map(|block_kv| (block_q, block_kv, threads_per_row)))
        .map(|(block_q, block_kv, threads)| (with(block_q, block_kv, threads), threads))
        .filter(|(config, threads_per_row)| fits(config, *threads_per_row))
        .map(|(config, _)| config)
        .collect()
}

/// The keys of a step that an invocation has the scores of at most, as shaders/tile/softmax.wgsl says.
const MOST_KEYS: usize = 8;

pub(in crate::kernel) fn backward(
    problem: &Resolved,
    strides: &GradientStrides,
    gradients: GradientDtypes,
    registers: usize,
) -> BackwardConfig {
    let shape = &problem.shape;
    // The sums' registers per invocation: 4 rows of a slice / threads_per_row components, of dk and of dv.
    let (threads_per_row, own) = match (shape.head_dim.max(shape.head_dim_v), registers) {
        (0..=64, 0..=128) => (16, 64),
        (0..=64, _) => (8, 64),
        (65..=128, 0..=128) => (32, 32),
        (129.., 0..=128) => (32, 16),
        (129.., 129..=192) | (257.., _) => (32, 32),
        _ => (16, 64),
    };
    let capacities: &[usize] = match threads_per_row {
        8 => &[32, 64],
        16 => &[64, 128, 192, 256],
        _ => &[128, 256, 384, 512, 640],
    };
    let (head_dim, head_dim_v) =
        (row_capacity(shape.head_dim, capacities), row_capacity(shape.head_dim_v, capacities));
    // The components of dq, and of dk and dv together, that there are registers for.
    let (most, most_of_both) = match registers {
        0..=64 => (256, 256),
        65..=128 => (384, 512),
        129..=192 => (640, 1024),
        _ => (640, 1280),
    };
    let dq = longest_slice(head_dim, most);
    let mut count = 1;
    while slice(head_dim, count) + slice(head_dim_v, count) > most_of_both {
        count += 1;
    }
    let [dk, dv] = [head_dim, head_dim_v].map(|row| slice(row, count));
    let slices = Slices { dq, dk, dv };
    let other = 32;
    let longest = head_dim.capacity.max(head_dim_v.capacity);
    // Of the rows that are added up, compilers read as many vectors ahead as are staged.
    let (staged, most_staged) = if registers <= 64 { (512, 4) } else { (1024, 16) };
    let of_dq = head_dim.capacity.div_ceil(dq);
    BackwardConfig {
        dq_grid: TileGrid { block_q: own, block_kv: other },
        dkdv_grid: TileGrid { block_q: other, block_kv: own },
        head_dim: filled(filled(head_dim, dq, of_dq), dk, count),
        head_dim_v: filled(head_dim_v, dv, count),
        rows: backward_row_format(problem, strides),
        gradients,
        dq_folds: dq_folds(problem, gradients),
        dkdv_folds: dkdv_folds(problem, gradients),
        dq_windows: Windowed::default(),
        dkdv_windows: Windowed::default(),
        form: BackwardForm::Tiled {
            threads_per_row,
            chunk: 16,
            staged_rows: (staged / longest).clamp(2, most_staged).next_power_of_two(),
            slices,
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
        let lengths = [32, 64, 128, 192, 256, 257, 384, 385, 512, 576];
        for (head_dim, head_dim_v) in lengths.into_iter().flat_map(|a| lengths.map(|b| (a, b))) {
            for registers in [64, 128, 192, 255] {
                let shape = Shape::new(1, 1, 64, head_dim).head_dim_v(head_dim_v);
                let problem = Resolved::new(Problem::new(shape)).unwrap();
                for keys in [32, 64] {
                    let config = forward_tiles(&problem, registers, keys);
                    let ForwardForm::Tiled { threads_per_row, o_slice, .. } = config.form else {
                        panic!("{config:?}")
                    };
                    let scores = 4 * config.grid.block_kv / threads_per_row;
                    let sums = 4 * o_slice / threads_per_row;
                    assert!(sums <= registers.div_ceil(2), "{config:?}");
                    assert!(sums + scores <= 2 * registers / 3 || registers <= 64, "{config:?}");
                    assert!((4..=4 * MOST_KEYS).contains(&scores), "{config:?}");
                    assert!(o_slice.is_multiple_of(4 * threads_per_row), "{config:?}");
                    assert!(config.grid.block_q / 4 * threads_per_row <= 256, "{config:?}");
                    let dispatches = config.form.dispatches(config.head_dim_v);
                    check_slices(config.head_dim_v, head_dim_v, o_slice, dispatches);
                }

                let rows = problem.strides();
                let strides = GradientStrides { dout: rows.o, dq: rows.q, dk: rows.k, dv: rows.v };
                let config = backward(&problem, &strides, Dtype::F32.into(), registers);
                let BackwardForm::Tiled { threads_per_row, slices, .. } = config.form else {
                    panic!("{config:?}")
                };
                let Slices { dq, dk, dv } = slices;
                for sums in [dq, dk + dv] {
                    let most = if sums > 512 { 2 * registers / 3 } else { registers.div_ceil(2) };
                    assert!(4 * sums / threads_per_row <= most, "{config:?}");
                }
                assert!(config.dq_grid.block_q / 4 * threads_per_row <= 256, "{config:?}");
                // Each has a score of every row, and bits for the tile's rows are in one word.
                let other = config.dq_grid.block_kv;
                assert!(other >= threads_per_row && other <= 32, "{config:?}");
                check_slices(config.head_dim, head_dim, dq, config.dq_dispatches());
                check_slices(config.head_dim, head_dim, dk, config.dkdv_dispatches());
                check_slices(config.head_dim_v, head_dim_v, dv, config.dkdv_dispatches());
            }
        }
    }

    /// Steps of 64 keys need more than WebGPU's baseline; within it there are those of 32.
    #[test]
    fn steps_are_as_long_as_workgroup_memory_allows() {
        for (head_dim, keys_of_64_queries, keys_of_32) in [
            (32, [32, 32], 32),
            (64, [32, 64], 64),
            (128, [32, 64], 64),
            (200, [32, 64], 64),
            (512, [32, 32], 32),
        ] {
            for (kib, keys) in [16, 32].into_iter().zip(keys_of_64_queries) {
                let mut device = DeviceTraits::with_everything(32);
                device.limits.max_compute_workgroup_storage_size = kib << 10;
                let block_kv = |seq_len_q| {
                    let shape = Shape::new(1, 1, seq_len_q, head_dim);
                    let problem = Resolved::new(Problem::new(shape)).unwrap();
                    let config = forward(&problem, &device);
                    Needs::of_forward(&config, false).refusal(&device.limits).unwrap();
                    config.grid.block_kv
                };
                assert_eq!([block_kv(99), block_kv(32)], [keys, keys_of_32], "{head_dim} {kib}");
            }
        }
    }

    /// The dispatches make all of a row, and none reads beyond it unless the kernel looks where it ends.
    fn check_slices(row: RowLength, length: usize, slice: usize, dispatches: usize) {
        assert!(slice * dispatches >= length && row.capacity >= length, "{row:?} {slice}");
        assert!(!row.exact || slice * dispatches == length, "{row:?} {slice}");
    }
}
