//! What the kernels for few queries have in common: how many rows they pack, and into how many splits the keys go.

use super::device::DeviceTraits;
use crate::kernel::key::{ForwardConfig, ForwardForm};
use crate::kernel::source::SEGMENT;
use crate::problem::Resolved;

/// The most queries that decode kernels take.
pub(crate) const MAX_DECODE_QUERIES: usize = 16;

/// The most splits of the keys: products of a split's and a tile's number stay within 32 bits.
pub(crate) const MAX_SPLITS: usize = 255;

/// Keys in a decode kernel's tile.
pub(in crate::kernel) const BLOCK_KV: usize = 32;

pub(in crate::kernel) fn check_queries(problem: &Resolved) -> Result<(), String> {
    match problem.shape.seq_len_q {
        0..=MAX_DECODE_QUERIES => Ok(()),
        queries => {
            Err(format!("it serves up to {MAX_DECODE_QUERIES} queries, here there are {queries}"))
        }
    }
}

/// The rows of a block: the packed rows of a kv head in as few blocks of at most `most`, a power of two, as it takes; a
/// power of two, so that few pipelines serve all groups.
pub(in crate::kernel) fn block_rows(problem: &Resolved, most: usize) -> usize {
    let packed = (problem.shape.group_size() * problem.shape.seq_len_q).max(1);
    packed.div_ceil(packed.div_ceil(most)).next_power_of_two()
}

/// Into how many splits decode kernels have the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Splitting {
    /// As many as fill the device.
    Suitable,
    /// As many as the keys alone call for, however many sequences there are.
    ByKeys,
    Given(usize),
}

impl Splitting {
    pub(crate) fn count(
        self,
        problem: &Resolved,
        device: &DeviceTraits,
        config: &ForwardConfig,
    ) -> usize {
        match (self, config.form.packed_rows()) {
            (Self::Given(splits), _) => splits,
            (_, None) => 1,
            (Self::ByKeys, Some(_)) => {
                // A split reads 256 keys and values for each row of sums that it leaves to be merged.
                problem.shape.seq_len_kv.div_ceil(256).clamp(1, MAX_SPLITS)
            }
            (Self::Suitable, Some(rows)) => suitable_splits(problem, device, rows),
        }
    }
}

/// A config whose kernel writes parts if the keys are split.
pub(in crate::kernel) fn split(
    problem: &Resolved,
    device: &DeviceTraits,
    mut config: ForwardConfig,
    splitting: Splitting,
) -> ForwardConfig {
    let splits = splitting.count(problem, device, &config);
    match &mut config.form {
        ForwardForm::DecodeLanes { split, .. } | ForwardForm::Decode { split, .. } => {
            *split = splits > 1;
        }
        ForwardForm::Broadcast { .. } | ForwardForm::Tiled { .. } | ForwardForm::Matrix { .. } => {}
    }
    config
}

/// How many splits of the keys fill the device: 1 where the other dimensions do, and none shorter than pays.
fn suitable_splits(problem: &Resolved, device: &DeviceTraits, rows: usize) -> usize {
    let shape = &problem.shape;
    // A CPU has few cores, and a workgroup there begins with loads of q that are dear; a GPU has a hundred
    // multiprocessors with several workgroups each, and hides the latency of one behind the others.
    let (workgroups, least_keys) = if device.is_cpu { (64, 256) } else { (512, 128) };
    let blocks = (shape.group_size() * shape.seq_len_q).div_ceil(rows);
    let others = (shape.batch * shape.num_kv_heads * blocks).max(1);
    let longest = shape.seq_len_kv.div_ceil(least_keys).clamp(1, MAX_SPLITS);
    // More than fill the device where one running sum would have too many terms, as far as a binding holds what they find.
    let row = shape.head_dim_v.next_multiple_of(4) * 4;
    // Of packed queries there may be fewer rows than these, and so no bound for them.
    let rows = shape.batch * shape.num_heads * shape.seq_len_q;
    let split_bytes = rows.saturating_mul(row);
    let bound = device.limits.max_storage_buffer_binding_size / split_bytes.max(1) as u64;
    let accurate = shape.seq_len_kv.div_ceil(SEGMENT).min(MAX_SPLITS).min(bound as usize);
    usize::div_ceil(workgroups, others).min(longest).max(accurate)
}
