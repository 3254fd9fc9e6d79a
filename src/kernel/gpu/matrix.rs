//! `matrix`: both products by cooperative matrices.

use crate::kernel::key::{ForwardConfig, ForwardForm};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{folds, row_capacity, row_format};
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;
use crate::tensor::dtype::{Dtype, Dtypes};

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
) -> Result<ForwardConfig, String> {
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
