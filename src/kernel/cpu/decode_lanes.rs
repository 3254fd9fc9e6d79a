//! `decode_lanes`: a subgroup has the packed rows of few queries, each lane keys of its own.

use super::lanes::lanes;
use crate::kernel::key::{ForwardConfig, ForwardForm, Windowed};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{CAPACITIES, row_capacity};
use crate::kernel::tiles::splits::{
    BLOCK_KV, MAX_DECODE_QUERIES, Splitting, block_rows, check_queries, split,
};
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;

/// The row count falls as rows grow, to keep the registers and the time to compile.
const ROWS: [(usize, usize); 2] = [(128, 16), (256, 8)];

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
    splitting: Splitting,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let (subgroup_size, rows_format) = lanes(problem, device)?;
    let shape = &problem.shape;
    let widest = shape.head_dim.max(shape.head_dim_v);
    let most = (ROWS.iter()).find(|&&(longest, _)| widest <= longest);
    let rows = block_rows(problem, most.map_or(1, |&(_, rows)| rows));
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: BLOCK_KV },
        head_dim: row_capacity(shape.head_dim, &CAPACITIES),
        head_dim_v: row_capacity(shape.head_dim_v, &CAPACITIES),
        rows: rows_format,
        folds: false,
        windows: Windowed::default(),
        form: ForwardForm::DecodeLanes { subgroup_size, rows, split: false },
    };
    Ok(split(problem, device, config, splitting))
}
