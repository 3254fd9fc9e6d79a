//! The tile table: which forward kernel serves a problem on a device, with which tiles, and why not the others.

mod device;
pub(super) mod rows;
pub(super) mod splits;

use super::cpu::{broadcast, decode_lanes};
use super::gpu::{decode, matrix, tiled};
use super::key::{BackwardConfig, BackwardKernel, ForwardConfig, ForwardForm, ForwardKernel};
use super::limits::Needs;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::GradientDtypes;

pub(crate) use device::DeviceTraits;
pub(crate) use rows::{backward_row_format, row_format};
pub(crate) use splits::{MAX_SPLITS, Splitting};

use splits::MAX_DECODE_QUERIES;

/// A kernel that was considered, and its tiles or why it was refused.
pub(crate) type Candidate = (ForwardKernel, Result<ForwardConfig, String>);

/// Every forward kernel, the best first, with its tiles for `problem` or the reason why it can't serve. Decode kernels
/// have the keys in as many splits as `splitting` says.
pub(crate) fn candidates(
    problem: &Resolved,
    device: &DeviceTraits,
    splitting: Splitting,
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
                ForwardKernel::Broadcast => broadcast::forward(problem, device),
                ForwardKernel::Tiled => Ok(tiled::forward(problem, device)),
                ForwardKernel::Matrix => matrix::forward(problem, device),
                ForwardKernel::DecodeLanes => decode_lanes::forward(problem, device, splitting),
                ForwardKernel::Decode => decode::forward(problem, device, splitting),
            };
            let form = form.and_then(|config| {
                Needs::of_forward(&config, problem.score.bias).refusal(&device.limits)?;
                Ok(config)
            });
            match splitting {
                Splitting::Given(splits) if splits > 1 && !kernel.is_decode() => {
                    (kernel, Err("it doesn't split the keys".to_owned()))
                }
                _ => (kernel, form),
            }
        })
        .collect()
}

/// How many invocations look at a tile together while the tile map is made. On a CPU each of them costs more than it
/// saves.
pub(crate) const fn tile_map_parts(device: &DeviceTraits) -> usize {
    if device.is_cpu { 1 } else { 4 }
}

/// Other tiles for the kernel of a config of the table: what the tuner tries beside it.
pub(crate) fn variants(config: ForwardConfig, device: &DeviceTraits) -> Vec<ForwardConfig> {
    match config.form {
        ForwardForm::Broadcast { .. } => broadcast::variants(config),
        ForwardForm::Tiled { .. } => tiled::variants(config, device),
        // The tables have the only tiles that they have, or the most that there are registers for.
        ForwardForm::Matrix { .. }
        | ForwardForm::DecodeLanes { .. }
        | ForwardForm::Decode { .. } => Vec::new(),
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
                    broadcast::backward(problem, strides, gradients, device)
                }
                BackwardKernel::Tiled => {
                    Ok(tiled::backward(problem, strides, gradients, device.registers))
                }
                BackwardKernel::Matrix => matrix::backward(problem, strides, gradients, device),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::key::SumSteps;
    use crate::mask::tile::TileGrid;
    use crate::problem::Problem;
    use crate::tensor::shape::Shape;

    /// Profiles on disk hold these words: another wording needs another version of them.
    #[test]
    fn tiles_are_named_as_profiles_have_them() {
        let problem = Resolved::new(Problem::new(Shape::new(1, 1, 64, 64))).unwrap();
        let config = tiled::forward(&problem, &DeviceTraits::with_everything(8));
        let grid = TileGrid { block_q: 64, block_kv: 32 };
        let sum_steps = SumSteps { full: 8, partial: Some(2) };
        for (form, words) in [
            (
                ForwardForm::Broadcast { subgroup_size: 8, rows: 4, sum_steps },
                "subgroup 8, rows per lane 4, keys per sum 8, in partial tiles 2",
            ),
            (
                ForwardForm::Tiled { threads_per_row: 8, chunk: 16, v_keys: 4, o_slice: 64 },
                "threads per row 8, staged components 16, staged values 4",
            ),
            (
                ForwardForm::Matrix { size: 16, part: 32, subgroups: (32, 64), votes: true },
                "matrices 16, keys per part 32, subgroups 32 to 64",
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
