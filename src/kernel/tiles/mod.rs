//! The tile table: which forward kernel serves a problem on a device, with which tiles, and why not the others.

mod broadcast;
mod decode;
mod device;
mod rows;

use super::key::{
    BackwardConfig, BackwardForm, BackwardKernel, ForwardConfig, ForwardForm, ForwardKernel,
};
use super::limits::Needs;
use crate::mask::tile::TileGrid;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::{Dtype, Dtypes, GradientDtypes};

pub(crate) use broadcast::{cell_bytes, most_cell_bytes};
pub(crate) use decode::{MAX_SPLITS, suitable_splits};
pub(crate) use device::DeviceTraits;
pub(crate) use rows::row_format;

use broadcast::{backward_broadcast, broadcast};
use decode::{MAX_DECODE_QUERIES, decode_lanes, decode_shared};
use rows::{CAPACITIES, backward_row_format, dkdv_folds, dq_folds, folds, row_capacity};

/// A kernel that was considered, and its tiles or why it was refused.
pub(crate) type Candidate = (ForwardKernel, Result<ForwardConfig, String>);

/// Every forward kernel, the best first, with its tiles for `problem` or the reason why it can't serve. Decode kernels
/// have the keys in `num_splits` parts, or in as many as suit the device.
pub(crate) fn candidates(
    problem: &Resolved,
    device: &DeviceTraits,
    num_splits: Option<usize>,
) -> Vec<Candidate> {
    let mut forward = vec![ForwardKernel::Broadcast, ForwardKernel::Tiled, ForwardKernel::Matrix];
    let mut decode = vec![ForwardKernel::DecodeLanes, ForwardKernel::Decode];
    // On a GPU, a subgroup that leaves workgroup memory unused and its lanes to scalar work is the last resort; on a CPU,
    // matrices that it has no units for.
    if !device.is_cpu {
        forward.reverse();
        decode.reverse();
    }
    let few = problem.shape.seq_len_q <= MAX_DECODE_QUERIES;
    let (first, last) = if few { (decode, forward) } else { (forward, decode) };
    let kernels = first.into_iter().chain(last);
    kernels
        .map(|kernel| {
            let form = match kernel {
                ForwardKernel::Broadcast => broadcast(problem, device),
                ForwardKernel::Tiled => Ok(tiled(problem, device.registers)),
                ForwardKernel::Matrix => matrix(problem, device),
                ForwardKernel::DecodeLanes => decode_lanes(problem, device, num_splits),
                ForwardKernel::Decode => decode_shared(problem, device, num_splits),
            };
            let form = form.and_then(|config| {
                Needs::of_forward(&config, problem.score.bias).refusal(&device.limits)?;
                Ok(config)
            });
            match num_splits {
                Some(splits) if splits > 1 && !kernel.is_decode() => {
                    (kernel, Err("it doesn't split the keys".to_owned()))
                }
                _ => (kernel, form),
            }
        })
        .collect()
}

fn tiled(problem: &Resolved, registers: usize) -> ForwardConfig {
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

fn matrix(problem: &Resolved, device: &DeviceTraits) -> Result<ForwardConfig, String> {
    let size = device.matrix.clone()?;
    let Dtypes { q, k, v, .. } = problem.dtypes;
    if [q, k, v] != [Dtype::F16; 3] {
        return Err(format!("it serves q, k and v in f16, here they are {q}, {k} and {v}"));
    }
    let shape = &problem.shape;
    let widest = shape.head_dim.max(shape.head_dim_v);
    if widest > 128 {
        return Err(format!("it serves head_dim up to 128, here it is {widest}"));
    }
    let threads_per_row = 8;
    let config = ForwardConfig {
        // With longer rows, half as many: workgroup memory holds all of them.
        grid: TileGrid {
            block_q: if widest > 64 { 32 } else { 64 },
            block_kv: 4 * threads_per_row,
        },
        head_dim: row_capacity(shape.head_dim, &[16, 32, 64, 128]),
        head_dim_v: row_capacity(shape.head_dim_v, &[32, 64, 128]),
        rows: row_format(problem),
        folds: folds(problem),
        form: ForwardForm::Matrix { threads_per_row, size },
    };
    let invocations = config.grid.block_q / 4 * threads_per_row;
    if !invocations.is_multiple_of(device.largest_subgroup.max(1)) {
        return Err(format!(
            "it needs subgroups that divide {invocations} invocations, here they have up to {}",
            device.largest_subgroup
        ));
    }
    Ok(config)
}

/// How many invocations look at a tile together while the tile map is made. On a CPU each of them costs more than it
/// saves.
pub(crate) const fn tile_map_parts(device: &DeviceTraits) -> usize {
    if device.is_cpu { 1 } else { 4 }
}

/// Other tiles for the kernel of a config of the table: what the tuner tries beside it.
pub(crate) fn variants(config: ForwardConfig, device: &DeviceTraits) -> Vec<ForwardConfig> {
    match config.form {
        ForwardForm::Broadcast { subgroup_size, rows, sum_steps } => {
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
        ForwardForm::Tiled { threads_per_row, chunk, v_keys } => {
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
        ForwardForm::Matrix { .. } => Vec::new(),
        // Their rows follow from the packed rows, and the table has the most that there are registers for.
        ForwardForm::DecodeLanes { .. } | ForwardForm::Decode { .. } => Vec::new(),
    }
}

/// A form of the backward kernels that was considered, and its tiles or why it was refused.
pub(crate) type BackwardCandidate = (BackwardKernel, Result<BackwardConfig, String>);

/// Every form of the backward kernels, the best first, with its tiles or the reason why it can't serve.
pub(crate) fn backward_candidates(
    problem: &Resolved,
    strides: &GradientStrides,
    gradients: GradientDtypes,
    device: &DeviceTraits,
) -> Vec<BackwardCandidate> {
    let mut candidates: Vec<BackwardCandidate> = (BackwardKernel::ALL.into_iter())
        .map(|kernel| {
            let config = match kernel {
                BackwardKernel::Broadcast => {
                    backward_broadcast(problem, strides, gradients, device)
                }
                BackwardKernel::Tiled => {
                    Ok(backward_tiled(problem, strides, gradients, device.registers))
                }
            };
            let config = config.and_then(|config| {
                Needs::of_backward(&config).refusal(&device.limits)?;
                Ok(config)
            });
            (kernel, config)
        })
        .collect();
    if !device.is_cpu {
        candidates.reverse();
    }
    candidates
}

fn backward_tiled(
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
    use crate::kernel::key::SumSteps;
    use crate::problem::Problem;
    use crate::tensor::shape::Shape;

    /// What an invocation adds up is in registers, with room for the rest. How much that needs, `cargo xtask isa` shows.
    #[test]
    fn sums_leave_registers_for_the_rest() {
        for registers in [128, 192, 255] {
            for head_dim in [32, 64, 128, 192, 256] {
                let problem = Problem::new(Shape::new(1, 1, 64, head_dim));
                let problem = Resolved::new(problem).unwrap();
                let config = tiled(&problem, registers);
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
                let config = backward_tiled(&problem, &strides, Dtype::F32.into(), registers);
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

    /// Profiles on disk hold these words: another wording needs another version of them.
    #[test]
    fn tiles_are_named_as_profiles_have_them() {
        let problem = Resolved::new(Problem::new(Shape::new(1, 1, 64, 64))).unwrap();
        let config = tiled(&problem, 255);
        let grid = TileGrid { block_q: 64, block_kv: 32 };
        let sum_steps = SumSteps { full: 8, partial: Some(2) };
        for (form, words) in [
            (
                ForwardForm::Broadcast { subgroup_size: 8, rows: 4, sum_steps },
                "subgroup 8, rows per lane 4, keys per sum 8, in partial tiles 2",
            ),
            (
                ForwardForm::Tiled { threads_per_row: 8, chunk: 16, v_keys: 4 },
                "threads per row 8, staged components 16, staged values 4",
            ),
            (
                ForwardForm::Matrix { threads_per_row: 8, size: 16 },
                "threads per row 8, matrices 16",
            ),
            (
                ForwardForm::DecodeLanes { subgroup_size: 8, rows: 4, split: true },
                "subgroup 8, packed rows 4, split true",
            ),
            (
                ForwardForm::Decode {
                    invocations: 128,
                    threads_per_row: 4,
                    rows: 8,
                    k_run: 2,
                    v_run: 1,
                    split: false,
                },
                "threads 128, threads per key 4, packed rows 8, vectors per load 2 and 1, split false",
            ),
        ] {
            let tiles = ForwardConfig { grid, form, ..config }.tiles();
            assert_eq!(tiles, format!("64 queries x 32 keys, {words}"));
        }
    }
}
