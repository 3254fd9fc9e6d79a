//! `decode`: a workgroup's invocations share the keys of few packed rows.

use crate::kernel::key::{ForwardConfig, ForwardForm, RowAccess};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{row_capacity, row_format};
use crate::kernel::tiles::splits::{
    BLOCK_KV, MAX_DECODE_QUERIES, Splitting, block_rows, check_queries, split,
};
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;
use crate::tensor::dtype::Dtype;
use crate::tensor::shape::Strides;

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
    splitting: Splitting,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let shape = &problem.shape;
    let head_dim = row_capacity(shape.head_dim, &[16, 32, 64, 128, 192, 256]);
    // q and the shares of the products are in workgroup memory together.
    let most = match (head_dim.capacity <= 128, device.registers < 128) {
        (true, false) => 8,
        (true, true) | (false, false) => 4,
        (false, true) => 2,
    };
    let rows_format = row_format(problem);
    let invocations = 128;
    // No more neighbours than a key has runs, where that leaves each its own key.
    let strides = problem.strides;
    let k_run = run(problem.dtypes.k, rows_format.access, strides.k, shape.head_dim);
    let runs = head_dim.capacity / 4 / k_run;
    let rows = block_rows(problem, most);
    // The output's registers per invocation: v_run components of 4 of every row. Unpacking 4 bits takes some, too.
    let few_registers = if problem.dtypes.v == Dtype::I4 { 192 } else { 128 };
    let most_vectors = if device.registers <= few_registers { 8 } else { 16 };
    let v_run = run(problem.dtypes.v, rows_format.access, strides.v, shape.head_dim_v);
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: BLOCK_KV },
        head_dim,
        head_dim_v: row_capacity(shape.head_dim_v, &[16, 32, 64, 128, 192, 256]),
        rows: rows_format,
        folds: false,
        form: ForwardForm::Decode {
            invocations,
            threads_per_row: runs.clamp(invocations / BLOCK_KV, 8),
            rows,
            k_run,
            v_run: v_run.min((most_vectors / rows).max(1)),
            split: false,
        },
    };
    Ok(split(problem, device, config, splitting))
}

/// How many vectors of four components one load, of at most 16 bytes, brings of a row of `length` components.
fn run(dtype: Dtype, access: RowAccess, strides: Strides, length: usize) -> usize {
    let [batch, head, seq, _] = strides.to_array();
    let aligned = [batch, head, seq].iter().all(|stride| stride.is_multiple_of(8));
    match (access, dtype) {
        (RowAccess::Vec4, Dtype::F16 | Dtype::Bf16) if aligned => 2,
        (RowAccess::Vec4, Dtype::I8) if length.is_multiple_of(16) => 4,
        // A word: what more of them stand for is more than registers hold, and neighbours' words are whole sectors.
        (RowAccess::Vec4, Dtype::I4) if length.is_multiple_of(8) => 2,
        _ => 1,
    }
}
