//! `matrix`: both products by cooperative matrices.

use crate::kernel::key::{ForwardConfig, ForwardForm};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{folds, row_capacity, row_format};
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;
use crate::tensor::dtype::{Dtype, Dtypes};

/// Rows of matrices of either size, and few enough kernels.
const CAPACITIES: [usize; 6] = [16, 32, 64, 128, 192, LONGEST];

/// A workgroup has all of its keys' components in its memory, and all sums of its rows in registers.
const LONGEST: usize = 256;

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
) -> Result<ForwardConfig, String> {
    let size = device.matrix.clone()?;
    let Dtypes { q, k, v, .. } = problem.dtypes;
    if [q, k, v] != [Dtype::F16; 3] {
        return Err(format!("it serves q, k and v in f16, here they are {q}, {k} and {v}"));
    }
    let subgroups @ (least, most) = device.subgroups;
    if least < size {
        return Err(format!(
            "it needs subgroups of at least {size} lanes for matrices of {size} rows, here they have {least} to {most}"
        ));
    }
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
        // lavapipe takes a subgroup's barriers for the workgroup's: every subgroup has to meet the same ones.
        form: ForwardForm::Matrix { size, part, subgroups, votes: !device.is_cpu },
    })
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
            fixed_subgroup_size: Err(String::new()),
            registers: 255,
            subgroups,
            reads_wide: false,
            matrix: Ok(size),
            limits: wgpu::Limits::defaults(),
            most_work: u64::MAX,
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
        }
        let refused = forward(&problem, &device((8, 32), 16)).unwrap_err();
        assert!(refused.contains("at least 16 lanes"), "{refused}");
    }
}
