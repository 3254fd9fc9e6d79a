//! `matrix`, forward and backward: all products by cooperative matrices.

use crate::kernel::key::{BackwardConfig, BackwardForm, ForwardConfig, ForwardForm, Windowed};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{
    backward_row_format, dkdv_folds, dq_folds, folds, row_capacity, row_format,
};
use crate::mask::tile::TileGrid;
use crate::problem::{GradientStrides, Resolved};
use crate::tensor::dtype::{Dtype, Dtypes, GradientDtypes};

/// Rows of matrices of either size, and few enough kernels.
const CAPACITIES: [usize; 6] = [16, 32, 64, 128, 192, LONGEST];

/// A workgroup has all of its keys' components in its memory, and all sums of its rows in registers.
const LONGEST: usize = 256;

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
) -> Result<ForwardConfig, String> {
    let size = matrix_size(problem, device)?;
    let subgroups @ (_, most) = device.subgroups;
    let shape = &problem.shape;
    let longest = shape.head_dim.max(shape.head_dim_v);
    if longest > LONGEST {
        return Err(format!(
            "it serves rows up to head_dim {LONGEST}, whose sums fit in registers, here it is {longest}"
        ));
    }
    let head_dim = row_capacity(shape.head_dim, &CAPACITIES);
    let head_dim_v = row_capacity(shape.head_dim_v, &CAPACITIES);
    let widest = head_dim.capacity.max(head_dim_v.capacity);
    // Workgroup memory holds a tile of k and v; a lane has at least four keys of a part.
    let block_kv = if widest > 128 { 16 } else { 32 };
    let part = (if widest > 64 || size == 8 { size } else { 32 }).max(4 * most / size);
    Ok(ForwardConfig {
        grid: TileGrid {
            block_q: if shape.seq_len_q <= 32 { 32 } else { 64 },
            block_kv: block_kv.max(part),
        },
        head_dim,
        head_dim_v,
        rows: row_format(problem),
        folds: folds(problem),
        windows: Windowed::default(),
        // lavapipe takes a subgroup's barriers for the workgroup's: every subgroup has to meet the same ones.
        form: ForwardForm::Matrix { size, part, subgroups, votes: !device.is_cpu },
    })
}

/// The longest rows of the backward pass. A subgroup has a strip of rows of two tensors and of the sums in registers, which longer
/// ones don't fit.
const LONGEST_BACKWARD: usize = 128;

pub(in crate::kernel) fn backward(
    problem: &Resolved,
    strides: &GradientStrides,
    gradients: GradientDtypes,
    device: &DeviceTraits,
) -> Result<BackwardConfig, String> {
    let size = matrix_size(problem, device)?;
    if problem.dtypes.o != Dtype::F16 {
        return Err(format!("it serves o and dout in f16, here they are {}", problem.dtypes.o));
    }
    let shape = &problem.shape;
    let longest = shape.head_dim.max(shape.head_dim_v);
    if longest > LONGEST_BACKWARD {
        return Err(format!(
            "it has registers for rows of at most {LONGEST_BACKWARD} components, here they have {longest}"
        ));
    }
    let subgroups @ (_, most) = device.subgroups;
    let head_dim = row_capacity(shape.head_dim, &CAPACITIES);
    let head_dim_v = row_capacity(shape.head_dim_v, &CAPACITIES);
    let is_long = head_dim.capacity.max(head_dim_v.capacity) > 64;
    // Four rows of the other side for each lane, at least.
    let part = size.max(4 * most / size);
    let other = (if is_long { 16 } else { 32 }).max(part);
    let own = 64;
    Ok(BackwardConfig {
        dq_grid: TileGrid { block_q: own, block_kv: other },
        dkdv_grid: TileGrid { block_q: other, block_kv: own },
        head_dim,
        head_dim_v,
        rows: backward_row_format(problem, strides),
        gradients,
        dq_folds: dq_folds(problem, gradients),
        dkdv_folds: dkdv_folds(problem, gradients),
        dq_windows: Windowed::default(),
        dkdv_windows: Windowed::default(),
        form: BackwardForm::Matrix { size, part, subgroups, votes: !device.is_cpu, apart: is_long },
    })
}

/// The size of the device's matrices, for a problem in f16.
fn matrix_size(problem: &Resolved, device: &DeviceTraits) -> Result<usize, String> {
    let size = device.matrix.clone()?;
    let Dtypes { q, k, v, .. } = problem.dtypes;
    if [q, k, v] != [Dtype::F16; 3] {
        return Err(format!("it serves q, k and v in f16, here they are {q}, {k} and {v}"));
    }
    let (least, most) = device.subgroups;
    if least < size {
        return Err(format!(
            "it needs subgroups of at least {size} lanes for matrices of {size} rows, here they have {least} to {most}"
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::limits::Needs;
    use crate::problem::Problem;
    use crate::tensor::shape::Shape;

    /// A lane has a row of a matrix, or a part of one.
    #[test]
    fn tiles_follow_the_subgroups_there_are() {
        let problem = Problem::new(Shape::new(1, 1, 64, 128)).dtypes(Dtype::F16);
        let problem = Resolved::new(problem).unwrap();
        let device = |subgroups, size| DeviceTraits {
            is_cpu: false,
            subgroups,
            matrix: Ok(size),
            ..DeviceTraits::with_everything(8)
        };
        for (subgroups, size) in
            [((32, 32), 16), ((32, 64), 16), ((64, 64), 16), ((8, 8), 8), ((32, 32), 8)]
        {
            let config = forward(&problem, &device(subgroups, size)).unwrap();
            let Needs { invocations, workgroup_bytes, .. } = Needs::of_forward(&config, false);
            assert!(invocations <= 256 && workgroup_bytes <= 32 << 10, "{config:?}");
            let ForwardForm::Matrix { part, .. } = config.form else { panic!("{config:?}") };
            // A vector of keys for each lane, and bits for the tile's keys in one word.
            assert!(part >= 4 * subgroups.1 / size, "{config:?}");
            assert!(
                config.grid.block_kv.is_multiple_of(part) && config.grid.block_kv <= 32,
                "{config:?}"
            );
            for head_dim in [64, 128] {
                let shape = Shape::new(1, 1, 64, head_dim);
                let problem = Resolved::new(Problem::new(shape).dtypes(Dtype::F16)).unwrap();
                let rows = problem.strides();
                let strides = GradientStrides { dout: rows.o, dq: rows.q, dk: rows.k, dv: rows.v };
                let device = device(subgroups, size);
                let config = backward(&problem, &strides, Dtype::F32.into(), &device).unwrap();
                let Needs { invocations, workgroup_bytes, .. } = Needs::of_backward(&config);
                assert!(invocations <= 256 && workgroup_bytes <= 32 << 10, "{config:?}");
                let BackwardForm::Matrix { part, .. } = config.form else { panic!("{config:?}") };
                let other = config.dq_grid.block_kv;
                assert!(part >= 4 * subgroups.1 / size && part >= size, "{config:?}");
                assert!(other.is_multiple_of(part) && other <= 32, "{config:?}");
            }
        }
        let refused = forward(&problem, &device((8, 32), 16)).unwrap_err();
        assert!(refused.contains("at least 16 lanes"), "{refused}");
    }
}
