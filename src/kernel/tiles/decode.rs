//! The kernels for few queries: how many rows they pack, and into how many parts the keys go.

use super::device::DeviceTraits;
use super::rows::{CAPACITIES, lanes, row_capacity, row_format};
use crate::kernel::key::{ForwardConfig, ForwardForm, RowAccess};
use crate::kernel::source::SEGMENT;
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;
use crate::tensor::dtype::Dtype;
use crate::tensor::shape::Strides;

/// The most queries that decode kernels take.
pub(crate) const MAX_DECODE_QUERIES: usize = 16;

/// The most splits of the keys: products of a split's and a tile's number stay within 32 bits.
pub(crate) const MAX_SPLITS: usize = 255;

/// Keys in a decode kernel's tile.
const DECODE_BLOCK_KV: usize = 32;

/// The row count falls as rows grow, to keep the registers and the time to compile.
const DECODE_LANES_ROWS: [(usize, usize); 2] = [(128, 16), (256, 8)];

pub(super) fn decode_lanes(
    problem: &Resolved,
    device: &DeviceTraits,
    num_splits: Option<usize>,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let (subgroup_size, rows_format) = lanes(problem, device)?;
    let shape = &problem.shape;
    let widest = shape.head_dim.max(shape.head_dim_v);
    let most = (DECODE_LANES_ROWS.iter()).find(|&&(longest, _)| widest <= longest);
    let rows = block_rows(problem, most.map_or(1, |&(_, rows)| rows));
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: DECODE_BLOCK_KV },
        head_dim: row_capacity(shape.head_dim, &CAPACITIES),
        head_dim_v: row_capacity(shape.head_dim_v, &CAPACITIES),
        rows: rows_format,
        folds: false,
        form: ForwardForm::DecodeLanes { subgroup_size, rows, split: false },
    };
    Ok(split(problem, device, config, num_splits))
}

pub(super) fn decode_shared(
    problem: &Resolved,
    device: &DeviceTraits,
    num_splits: Option<usize>,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let shape = &problem.shape;
    let head_dim = row_capacity(shape.head_dim, &[16, 32, 64, 128, 192, 256]);
    // q and the shares of the products are in workgroup memory together.
    let most = if head_dim.capacity <= 128 { 8 } else { 4 };
    let rows_format = row_format(problem);
    let invocations = 128;
    // No more neighbours than a key has runs, where that leaves each its own key.
    let strides = problem.strides;
    let k_run = run(problem.dtypes.k, rows_format.access, strides.k, shape.head_dim);
    let runs = head_dim.capacity / 4 / k_run;
    let rows = block_rows(problem, most);
    // The output's registers per invocation: v_run components of 4 of every row.
    let most_vectors = if device.registers <= 128 { 8 } else { 16 };
    let v_run = run(problem.dtypes.v, rows_format.access, strides.v, shape.head_dim_v);
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: DECODE_BLOCK_KV },
        head_dim,
        head_dim_v: row_capacity(shape.head_dim_v, &[16, 32, 64, 128, 192, 256]),
        rows: rows_format,
        folds: false,
        form: ForwardForm::Decode {
            invocations,
            threads_per_row: runs.clamp(invocations / DECODE_BLOCK_KV, 8),
            rows,
            k_run,
            v_run: v_run.min((most_vectors / rows).max(1)),
            split: false,
        },
    };
    Ok(split(problem, device, config, num_splits))
}

/// How many vectors of four components one load of 16 bytes brings of a row of `length` components.
fn run(dtype: Dtype, access: RowAccess, strides: Strides, length: usize) -> usize {
    let [batch, head, seq, _] = strides.to_array();
    let aligned = [batch, head, seq].iter().all(|stride| stride.is_multiple_of(8));
    match (access, dtype) {
        (RowAccess::Vec4, Dtype::F16 | Dtype::Bf16) if aligned => 2,
        (RowAccess::Vec4, Dtype::I8) if length.is_multiple_of(16) => 4,
        _ => 1,
    }
}

fn check_queries(problem: &Resolved) -> Result<(), String> {
    match problem.shape.seq_len_q {
        0..=MAX_DECODE_QUERIES => Ok(()),
        queries => {
            Err(format!("it serves up to {MAX_DECODE_QUERIES} queries, here there are {queries}"))
        }
    }
}

/// The rows of a block: the packed rows of a kv head in as few blocks of at most `most`, a power of two, as it takes; a
/// power of two, so that few pipelines serve all groups.
fn block_rows(problem: &Resolved, most: usize) -> usize {
    let packed = (problem.shape.group_size() * problem.shape.seq_len_q).max(1);
    packed.div_ceil(packed.div_ceil(most)).next_power_of_two()
}

/// A config whose kernel writes parts if the keys are split.
fn split(
    problem: &Resolved,
    device: &DeviceTraits,
    mut config: ForwardConfig,
    num_splits: Option<usize>,
) -> ForwardConfig {
    let splits = num_splits.unwrap_or_else(|| suitable_splits(problem, device, &config));
    match &mut config.form {
        ForwardForm::DecodeLanes { split, .. } | ForwardForm::Decode { split, .. } => {
            *split = splits > 1;
        }
        ForwardForm::Broadcast { .. } | ForwardForm::Tiled { .. } | ForwardForm::Matrix { .. } => {}
    }
    config
}

/// How many splits of the keys fill the device: 1 where the other dimensions do, and none shorter than pays.
pub(crate) fn suitable_splits(
    problem: &Resolved,
    device: &DeviceTraits,
    config: &ForwardConfig,
) -> usize {
    let Some(rows) = config.form.packed_rows() else {
        return 1;
    };
    let shape = &problem.shape;
    // A CPU has few cores, and a workgroup there begins with loads of q that are dear; a GPU has a hundred
    // multiprocessors with several workgroups each, and hides the latency of one behind the others.
    let (workgroups, least_keys) = if device.is_cpu { (64, 256) } else { (512, 128) };
    let blocks = (shape.group_size() * shape.seq_len_q).div_ceil(rows);
    let others = (shape.batch * shape.num_kv_heads * blocks).max(1);
    let longest = shape.seq_len_kv.div_ceil(least_keys).clamp(1, MAX_SPLITS);
    // More than fill the device where one running sum would have too many terms, as far as a binding holds what they find.
    let row = shape.head_dim_v.next_multiple_of(4) * 4;
    let split_bytes = shape.batch * shape.num_heads * shape.seq_len_q * row;
    let bound = device.limits.max_storage_buffer_binding_size / split_bytes.max(1) as u64;
    let accurate = shape.seq_len_kv.div_ceil(SEGMENT).min(MAX_SPLITS).min(bound as usize);
    usize::div_ceil(workgroups, others).min(longest).max(accurate)
}
