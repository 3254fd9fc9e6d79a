//! What a kernel needs of a device's limits, known before anything is compiled.

use super::key::{
    BackwardConfig, BackwardForm, BackwardPass, ForwardConfig, ForwardForm, KernelKey,
};
use super::source::{BIAS_ROWS, WORKGROUP_SIZE};
use crate::error::{Error, Result};

/// What a kernel needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) storage_buffers: usize,
    /// Invocations in a workgroup.
    pub(crate) invocations: usize,
    /// Bytes of workgroup memory.
    pub(crate) workgroup_bytes: usize,
}

/// A limit that isn't reached: what of the kernel needs it, its name, and both numbers.
type Shortfall = (&'static str, &'static str, usize, u64);

impl Needs {
    pub(crate) fn of(key: &KernelKey) -> Self {
        let bindings = key.bindings();
        let storage_buffers = bindings.iter().filter(|binding| !binding.is_uniform()).count();
        let (invocations, workgroup_bytes) = match key {
            KernelKey::Forward { config, .. } => forward_workgroup(config),
            KernelKey::Backward { pass, config, .. } => match pass {
                BackwardPass::Dq { .. } | BackwardPass::DkDv { .. } => {
                    backward_workgroup(*pass, config)
                }
                BackwardPass::Sinks
                | BackwardPass::Slopes { .. }
                | BackwardPass::CustomSums
                | BackwardPass::Pages { .. } => {
                    (WORKGROUP_SIZE as usize, 4 * WORKGROUP_SIZE as usize)
                }
                // As shaders/backward/bias_keys_shared.wgsl declares it: a share of each row.
                BackwardPass::Bias { shared_by_keys: true, .. } => {
                    (WORKGROUP_SIZE as usize, 4 * BIAS_ROWS * WORKGROUP_SIZE as usize)
                }
                BackwardPass::Terms { .. }
                | BackwardPass::Bias { .. }
                | BackwardPass::Custom { .. } => (WORKGROUP_SIZE as usize, 0),
            },
            // As shaders/mask_tables/tile_map.wgsl declares them: the class of each of a word's tiles, and what was seen of it.
            KernelKey::TileMap { parts, .. } => (16 * parts, 2 * 16 * 4),
            KernelKey::SequencesCheck { .. } => (WORKGROUP_SIZE as usize, 4),
            // As shaders/block_index/pick.wgsl declares them: two lists of orders and blocks, each with a run behind it.
            KernelKey::PickBlocks { config, .. } => {
                (WORKGROUP_SIZE as usize, 16 * (config.capacity + WORKGROUP_SIZE as usize))
            }
            // As shaders/inspect/weights.wgsl declares them: shares of a row, and whether one of its scores isn't finite.
            KernelKey::Weights { .. } => {
                (WORKGROUP_SIZE as usize, 4 * WORKGROUP_SIZE as usize + 16)
            }
            KernelKey::Append { .. }
            | KernelKey::Merge { .. }
            | KernelKey::Inspect { .. }
            | KernelKey::Materialize { .. }
            | KernelKey::RowsAlone { .. }
            | KernelKey::BlockBits { .. }
            | KernelKey::Bounds { .. }
            | KernelKey::TileClasses { .. }
            | KernelKey::PoolBlocks { .. }
            | KernelKey::ScorePoints { .. } => (WORKGROUP_SIZE as usize, 0),
        };
        Self { storage_buffers, invocations, workgroup_bytes }
    }

    /// What a forward kernel needs, with a bias or without.
    pub(crate) fn of_forward(config: &ForwardConfig, bias: bool) -> Self {
        let (invocations, workgroup_bytes) = forward_workgroup(config);
        // The mask, q, k, v, and o with lse or parts with their stats; stats of segments; the bias.
        let storage_buffers = 6 + usize::from(config.folds) + usize::from(bias);
        Self { storage_buffers, invocations, workgroup_bytes }
    }

    /// What the largest of the backward kernels needs.
    pub(crate) fn of_backward(config: &BackwardConfig) -> Self {
        let both = !config.form.makes_apart();
        let passes = [
            BackwardPass::Dq { dq: true, normalizes: true, slopes: true },
            BackwardPass::DkDv { dk: true, dv: both },
            BackwardPass::DkDv { dk: both, dv: true },
        ];
        let least = (WORKGROUP_SIZE as usize, 4 * BIAS_ROWS * WORKGROUP_SIZE as usize);
        let (invocations, workgroup_bytes) = (passes.into_iter())
            .map(|pass| backward_workgroup(pass, config))
            .fold(least, |most, own| (most.0.max(own.0), most.1.max(own.1)));
        Self { storage_buffers: 8, invocations, workgroup_bytes }
    }

    fn shortfall(&self, limits: &wgpu::Limits) -> Option<Shortfall> {
        let storage = "max_storage_buffers_per_shader_stage";
        let all = [
            (
                "storage buffers",
                storage,
                self.storage_buffers,
                u64::from(limits.max_storage_buffers_per_shader_stage),
            ),
            (
                "invocations in a workgroup",
                "max_compute_invocations_per_workgroup",
                self.invocations,
                u64::from(limits.max_compute_invocations_per_workgroup),
            ),
            (
                "invocations in a workgroup",
                "max_compute_workgroup_size_x",
                self.invocations,
                u64::from(limits.max_compute_workgroup_size_x),
            ),
            (
                "bytes of workgroup memory",
                "max_compute_workgroup_storage_size",
                self.workgroup_bytes,
                u64::from(limits.max_compute_workgroup_storage_size),
            ),
        ];
        all.into_iter().find(|&(_, _, needed, available)| needed as u64 > available)
    }

    /// Nothing, or in words which limit keeps the kernel from being used.
    pub(crate) fn refusal(&self, limits: &wgpu::Limits) -> Result<(), String> {
        match self.shortfall(limits) {
            None => Ok(()),
            Some((what, limit, needed, available)) => {
                Err(format!("it needs {needed} {what}, but the device's {limit} is {available}"))
            }
        }
    }

    /// The same for a kernel that has no others beside it.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub(crate) fn check(&self, kernel: &str, limits: &wgpu::Limits) -> Result<()> {
        match self.shortfall(limits) {
            None => Ok(()),
            Some((what, limit, needed, available)) => Err(Error::Limit {
                what: format!("kernel `{kernel}` ({what})"),
                limit,
                needed: needed as u64,
                available,
                instead: "use a device with a larger limit",
            }),
        }
    }
}

/// Invocations and bytes of workgroup memory, as shaders/forward_*.wgsl declare them.
fn forward_workgroup(config: &ForwardConfig) -> (usize, usize) {
    let (block_q, block_kv) = (config.grid.block_q, config.grid.block_kv);
    let (head_dim, head_dim_v) = (config.head_dim.capacity, config.head_dim_v.capacity);
    // Vectors of four rows, one more than there are, and 16 bytes of marks.
    let row_tile = |rows: usize| 16 * rows * (block_q / 4 + 1) + 16;
    match config.form {
        ForwardForm::Broadcast { subgroup_size, .. }
        | ForwardForm::DecodeLanes { subgroup_size, .. } => (subgroup_size, 0),
        ForwardForm::Tiled { threads_per_row, chunk, v_keys, o_slice } => {
            let chunks = chunk / 4 * (block_q + 2 + block_kv + 2);
            let stage = chunks.max(v_keys * o_slice / 4);
            (block_q / 4 * threads_per_row, 16 * stage + row_tile(block_kv))
        }
        ForwardForm::Matrix { size, part, subgroups: (_, most), .. } => {
            let (k_row, v_row, p_row) = (head_dim / 4 + 2, block_kv / 4 + 2, part / 4 + 2);
            let halves = block_kv * k_row + head_dim_v * v_row + block_q * p_row;
            (block_q / size * most, 8 * halves + 16 * block_q * (part / 4 + 1) + 16)
        }
        ForwardForm::Decode { invocations, threads_per_row, rows, v_run, .. } => {
            let cells = rows * block_kv;
            let products = threads_per_row * (cells + invocations / threads_per_row / 4);
            let words = products.max(invocations * v_run * 4) + 2 * cells + rows + 4;
            (invocations, 16 * rows * head_dim / 4 + 4 * words)
        }
    }
}

/// The same of the backward kernels for dq, dk and dv.
fn backward_workgroup(pass: BackwardPass, config: &BackwardConfig) -> (usize, usize) {
    match config.form {
        BackwardForm::Broadcast { subgroup_size, .. } => (subgroup_size, 0),
        BackwardForm::Tiled { threads_per_row, chunk, staged_rows, slices } => {
            let (own, other) = (config.dq_grid.block_q, config.dq_grid.block_kv);
            let stage = (chunk / 4 * (own + 2 + other + 2)).max(staged_rows * slices.longest() / 4);
            (own / 4 * threads_per_row, 16 * (stage + other * (own / 4 + 1)) + 16)
        }
        BackwardForm::Matrix { size, part, subgroups: (_, most), .. } => {
            let (own, other) = (config.dq_grid.block_q, config.dq_grid.block_kv);
            let (head_dim, head_dim_v) = (config.head_dim.capacity, config.head_dim_v.capacity);
            let rows = |capacity: usize| other * (capacity / 4 + 2);
            let turned = |capacity: usize| capacity * (other / 4 + 2);
            let (tiles, terms) = match pass {
                BackwardPass::DkDv { dk, dv } => {
                    let of_dk = rows(head_dim_v) + turned(head_dim);
                    let of_dv = turned(head_dim_v);
                    let both = usize::from(dk) * of_dk + usize::from(dv) * of_dv;
                    (rows(head_dim) + both, 16 * other)
                }
                _ => (rows(head_dim) + turned(head_dim) + rows(head_dim_v), 0),
            };
            let halves = tiles + own * (part / 4 + 2);
            (own / size * most, 8 * halves + 16 * own * (part / 4 + 1) + 16 + terms)
        }
    }
}

/// Whether the device binds that much in one piece; `instead` says what to do where it doesn't.
///
/// # Errors
/// [`Error::Limit`].
pub(crate) fn check_binding_size(
    limits: &wgpu::Limits,
    name: &str,
    bytes: u64,
    instead: &'static str,
) -> Result<()> {
    let available = limits.max_storage_buffer_binding_size;
    if bytes <= available {
        return Ok(());
    }
    Err(Error::Limit {
        what: format!("{name} (in bytes)"),
        limit: "max_storage_buffer_binding_size",
        needed: bytes,
        available,
        instead,
    })
}
