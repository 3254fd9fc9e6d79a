//! The tile table: which forward kernel serves a problem on a device, with which tiles, and why not the others.

use super::key::{
    BackwardConfig, BackwardForm, BackwardKernel, ForwardConfig, ForwardForm, ForwardKernel,
    RowAccess, RowFormat, RowLength,
};
use super::limits::Needs;
use crate::dtype::{Dtype, Dtypes, GradientDtypes};
use crate::mask::tile::TileGrid;
use crate::problem::{GradientStrides, Problem};
use crate::shape::Strides;

/// What the choice of kernels depends on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceTraits {
    /// A CPU that poses as a GPU.
    pub(crate) is_cpu: bool,
    /// The one size that subgroups have, where the device has subgroups enabled and promises one.
    pub(crate) fixed_subgroup_size: Option<usize>,
    /// The most lanes that a subgroup may have.
    pub(crate) largest_subgroup: usize,
    /// Whether rows are better read in words of 64 bits than of 32, and can be.
    pub(crate) reads_wide: bool,
    /// The rows and columns of the cooperative matrices of f16, summed in f32, that the device multiplies, or why it has
    /// none.
    pub(crate) matrix: Result<usize, String>,
    pub(crate) limits: wgpu::Limits,
    /// The most multiply-adds of a submission.
    pub(crate) most_work: u64,
}

impl DeviceTraits {
    /// `matrices` is the adapter's list of cooperative matrices; empty where nobody told.
    pub(crate) fn new(
        device: &wgpu::Device,
        matrices: &[wgpu::CooperativeMatrixProperties],
        most_work: Option<u64>,
    ) -> Self {
        let info = device.adapter_info();
        let fixed = device.features().contains(wgpu::Features::SUBGROUP)
            && info.subgroup_min_size == info.subgroup_max_size;
        let is_cpu = info.device_type == wgpu::DeviceType::Cpu;
        Self {
            is_cpu,
            fixed_subgroup_size: fixed.then_some(info.subgroup_min_size as usize),
            largest_subgroup: info.subgroup_max_size as usize,
            reads_wide: is_cpu && device.features().contains(wgpu::Features::SHADER_INT64),
            matrix: matrix_size(device.features(), matrices),
            limits: device.limits(),
            most_work: most_work.unwrap_or_else(|| suitable_work(info.device_type)),
        }
    }
}

/// The most multiply-adds of a submission on a device of a class, so that it takes well under the 2 seconds after which
/// Windows resets a GPU: a second at 1.4e11 of them per second on a discrete GPU, which is a tenth of what a small one
/// does at its peak, and at 3.4e10 elsewhere. Nobody watches a CPU.
const fn suitable_work(class: wgpu::DeviceType) -> u64 {
    match class {
        wgpu::DeviceType::Cpu => u64::MAX,
        wgpu::DeviceType::DiscreteGpu => 1 << 37,
        wgpu::DeviceType::IntegratedGpu
        | wgpu::DeviceType::VirtualGpu
        | wgpu::DeviceType::Other => 1 << 35,
    }
}

/// The size of the matrices that the kernel `matrix` may use, or why there is none.
fn matrix_size(
    enabled: wgpu::Features,
    listed: &[wgpu::CooperativeMatrixProperties],
) -> Result<usize, String> {
    use wgpu::CooperativeScalarType::{F16, F32};
    for (feature, name) in [
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
        (wgpu::Features::SHADER_F16, "f16 arithmetic"),
        (wgpu::Features::SUBGROUP, "subgroups"),
    ] {
        if !enabled.contains(feature) {
            return Err(format!("it needs {name}, which the device wasn't opened with"));
        }
    }
    if listed.is_empty() {
        return Err("it needs the adapter's list of cooperative matrices".to_owned());
    }
    let serves = |shape: &&wgpu::CooperativeMatrixProperties| {
        let square = shape.m_size == shape.n_size && shape.n_size == shape.k_size;
        square && [8, 16].contains(&shape.m_size) && (shape.ab_type, shape.cr_type) == (F16, F32)
    };
    let largest = listed.iter().filter(serves).map(|shape| shape.m_size as usize).max();
    largest.ok_or_else(|| {
        let shapes: Vec<String> = (listed.iter())
            .map(|shape| {
                let wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, .. } = shape;
                format!("{m_size}x{n_size}x{k_size} {:?} in {:?}", shape.ab_type, shape.cr_type)
            })
            .collect();
        format!(
            "it needs matrices of 8x8x8 or 16x16x16 in f16, summed in f32, here there are: {}",
            shapes.join(", ")
        )
    })
}

/// A kernel that was considered, and its tiles or why it was refused.
pub(crate) type Candidate = (ForwardKernel, Result<ForwardConfig, String>);

/// Every forward kernel, the best first, with its tiles for `problem` or the reason why it can't serve. Decode kernels
/// have the keys in `num_splits` parts, or in as many as suit the device.
pub(crate) fn candidates(
    problem: &Problem,
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
                ForwardKernel::Tiled => Ok(tiled(problem)),
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

fn broadcast(problem: &Problem, device: &DeviceTraits) -> Result<ForwardConfig, String> {
    let subgroup_size = device.fixed_subgroup_size.ok_or("it needs subgroups of one fixed size")?;
    if !(4..=32).contains(&subgroup_size) {
        return Err(format!("it needs subgroups of 4 to 32 lanes, here they have {subgroup_size}"));
    }
    let shape = &problem.shape;
    let widest = shape.head_dim.max(shape.head_dim_v);
    let rows_format = lane_row_format(row_format(problem), device);
    if rows_format.access == RowAccess::Scalar && widest > 64 {
        return Err(format!(
            "it serves rows whose length and strides aren't multiples of 4 up to head_dim 64, here it is {widest}: \
             longer ones would take seconds to compile"
        ));
    }
    let (head_dim, head_dim_v) = (room(shape.head_dim, &ROOMS), room(shape.head_dim_v, &ROOMS));
    let rows = broadcast_rows(both(head_dim, head_dim_v));
    Ok(ForwardConfig {
        grid: TileGrid { block_q: subgroup_size * rows, block_kv: subgroup_size },
        head_dim,
        head_dim_v,
        rows: rows_format,
        form: ForwardForm::Broadcast {
            subgroup_size,
            rows,
            sum_step: sum_step(subgroup_size, head_dim_v, (96, 4)),
        },
    })
}

/// How many rows of its own a lane of `broadcast` has: each load and broadcast serves all of them, but more, and their
/// registers outgrow a core's caches and take seconds to compile, as rows do that end within a large room.
const fn broadcast_rows(longest: RowLength) -> usize {
    match longest.capacity {
        0..=64 => 4,
        65..=128 if longest.exact => 4,
        _ => 2,
    }
}

/// What rows of q and k and those of v need together.
fn both(head_dim: RowLength, head_dim_v: RowLength) -> RowLength {
    RowLength {
        capacity: head_dim.capacity.max(head_dim_v.capacity),
        exact: head_dim.exact && head_dim_v.exact,
    }
}

/// How many rows `broadcast` sums up at a time: all that a tile has, but for the widest subgroups, where `length` is at most
/// `short`, so that nothing is merged by the mask of lanes within a tile; else `few`, whose machine code fits a core's
/// instruction cache and compiles in half the time. A lane has a quarter of a row at least: the shortest has 16 components,
/// and they come by four.
fn sum_step(subgroup_size: usize, length: RowLength, (short, few): (usize, usize)) -> usize {
    let step = if length.capacity <= short { 8 } else { few };
    step.clamp(subgroup_size / 4, subgroup_size)
}

fn tiled(problem: &Problem) -> ForwardConfig {
    let shape = &problem.shape;
    let head_dim_v = room(shape.head_dim_v, &[32, 64, 128, 192, 256]);
    // The output's registers per invocation: 4 rows of capacity / columns components.
    let (columns, v_keys) = match head_dim_v.capacity {
        0..=64 => (8, 16),
        65..=128 => (8, 8),
        _ => (16, 4),
    };
    // Few queries would leave the other half of a block's rows without work.
    let block_q = if shape.seq_len_q <= 32 { 32 } else { 64 };
    ForwardConfig {
        grid: TileGrid { block_q, block_kv: 32 },
        head_dim: room(shape.head_dim, &ROOMS),
        head_dim_v,
        rows: row_format(problem),
        form: ForwardForm::Tiled { columns, chunk: 16, v_keys },
    }
}

fn matrix(problem: &Problem, device: &DeviceTraits) -> Result<ForwardConfig, String> {
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
    let columns = 8;
    let config = ForwardConfig {
        // With longer rows, half as many: workgroup memory holds all of them.
        grid: TileGrid { block_q: if widest > 64 { 32 } else { 64 }, block_kv: 4 * columns },
        head_dim: room(shape.head_dim, &[16, 32, 64, 128]),
        head_dim_v: room(shape.head_dim_v, &[32, 64, 128]),
        rows: row_format(problem),
        form: ForwardForm::Matrix { columns, size },
    };
    let invocations = config.grid.block_q / 4 * columns;
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
        ForwardForm::Broadcast { subgroup_size, rows, sum_step } => {
            let widest = config.head_dim.capacity.max(config.head_dim_v.capacity);
            // Longer columns of registers take too long to compile.
            let others = [1, 2, 4, 8].into_iter().filter(|&n| n != rows && n * widest <= 512);
            let with = |rows| ForwardConfig {
                grid: TileGrid { block_q: subgroup_size * rows, ..config.grid },
                form: ForwardForm::Broadcast { subgroup_size, rows, sum_step },
                ..config
            };
            others.map(with).collect()
        }
        ForwardForm::Tiled { columns, chunk, v_keys } => {
            let with = |block_q, columns| ForwardConfig {
                grid: TileGrid { block_q, ..config.grid },
                form: ForwardForm::Tiled { columns, chunk, v_keys },
                ..config
            };
            let fits = |config: &ForwardConfig, columns: usize| {
                // A bias is the same to all of them.
                Needs::of_forward(config, false).refusal(&device.limits).is_ok()
                    && config.head_dim_v.capacity.is_multiple_of(4 * columns)
                    // The output's registers per invocation: 4 rows of so many components.
                    && config.head_dim_v.capacity <= 16 * columns
            };
            let block_q = config.grid.block_q;
            let other_columns = [4, 8, 16].into_iter().filter(|&n| n != columns);
            let other_rows = [32, 64].into_iter().filter(|&n| n != block_q);
            (other_columns.map(|columns| (block_q, columns)))
                .chain(other_rows.map(|block_q| (block_q, columns)))
                .map(|(block_q, columns)| (with(block_q, columns), columns))
                .filter(|(config, columns)| fits(config, *columns))
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
    problem: &Problem,
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
                BackwardKernel::Tiled => Ok(backward_tiled(problem, strides)),
            };
            let config = config.and_then(|config| {
                Needs::of_backward(&config).refusal(&device.limits)?;
                Ok(BackwardConfig { gradients, ..config })
            });
            (kernel, config)
        })
        .collect();
    if !device.is_cpu {
        candidates.reverse();
    }
    candidates
}

fn backward_tiled(problem: &Problem, strides: &GradientStrides) -> BackwardConfig {
    let shape = &problem.shape;
    // The sums' registers per invocation: 4 rows of capacity / columns components, of dk and of dv.
    let columns = if shape.head_dim.max(shape.head_dim_v) <= 64 { 8 } else { 16 };
    let capacities: &[usize] = if columns == 8 { &[32, 64] } else { &[64, 128, 192, 256] };
    let (head_dim, head_dim_v) =
        (room(shape.head_dim, capacities), room(shape.head_dim_v, capacities));
    let (own, other) = (64, 32);
    BackwardConfig {
        rows_grid: TileGrid { block_q: own, block_kv: other },
        columns_grid: TileGrid { block_q: other, block_kv: own },
        head_dim,
        head_dim_v,
        rows: backward_row_format(problem, strides),
        gradients: GradientDtypes::default(),
        form: BackwardForm::Tiled {
            columns,
            chunk: 16,
            staged_rows: (1024 / head_dim.capacity.max(head_dim_v.capacity))
                .min(16)
                .next_power_of_two(),
        },
    }
}

fn backward_broadcast(
    problem: &Problem,
    strides: &GradientStrides,
    gradients: GradientDtypes,
    device: &DeviceTraits,
) -> Result<BackwardConfig, String> {
    let ForwardConfig { head_dim, head_dim_v, form, .. } = broadcast(problem, device)?;
    let ForwardForm::Broadcast { subgroup_size, .. } = form else {
        return Err("it needs subgroups".to_owned());
    };
    let longest = both(head_dim, head_dim_v);
    let long = longest.capacity > 64;
    let rows = broadcast_rows(longest);
    let of = |cells: bool| {
        // Of k and v as well, long ones would take too long to compile.
        let keys = if cells || !long { rows } else { 2 };
        BackwardConfig {
            rows_grid: TileGrid { block_q: subgroup_size * rows, block_kv: subgroup_size },
            columns_grid: TileGrid { block_q: subgroup_size, block_kv: subgroup_size * keys },
            head_dim,
            head_dim_v,
            rows: lane_row_format(backward_row_format(problem, strides), device),
            gradients: GradientDtypes::default(),
            form: BackwardForm::Broadcast {
                subgroup_size,
                sum_step: sum_step(subgroup_size, longest, (if cells { 64 } else { 32 }, 2)),
                cells,
            },
        }
    };
    // Short rows are multiplied again in less time than they are kept. A bias takes the binding that cells would need; and
    // sums go on from chunk to chunk in dk and dv themselves.
    let cells = longest.capacity > 16
        && !problem.score.bias
        && [gradients.dk, gradients.dv] == [Dtype::F32; 2]
        && cell_bytes(problem, &of(true)) <= most_cell_bytes(&device.limits);
    Ok(of(cells))
}

/// What the kernel for dq leaves of a workgroup's rows for the one for dk and dv, in bytes: a weight and the gradient of a
/// score for each cell, where it does.
pub(crate) const fn cell_bytes(problem: &Problem, config: &BackwardConfig) -> u64 {
    if !config.form.has_cells() {
        return 0;
    }
    let TileGrid { block_q, block_kv } = config.rows_grid;
    let keys = problem.shape.seq_len_kv.div_ceil(block_kv).saturating_mul(block_kv);
    (keys as u64).saturating_mul(block_q as u64 * 8)
}

/// How many bytes of these there may be at a time: enough rows for all of a CPU's cores.
pub(crate) fn most_cell_bytes(limits: &wgpu::Limits) -> u64 {
    limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(64 << 20)
}

/// The most queries that decode kernels take.
pub(crate) const MAX_DECODE_QUERIES: usize = 16;

/// The most splits of the keys: products of a split's and a tile's number stay within 32 bits.
pub(crate) const MAX_SPLITS: usize = 128;

/// Keys in a decode kernel's tile.
const DECODE_BLOCK_KV: usize = 32;

/// The row count falls as rows grow, to keep the registers and the time to compile.
const DECODE_LANES_ROWS: [(usize, usize); 2] = [(128, 16), (256, 8)];

fn decode_lanes(
    problem: &Problem,
    device: &DeviceTraits,
    num_splits: Option<usize>,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let subgroup_size = device.fixed_subgroup_size.ok_or("it needs subgroups of one fixed size")?;
    if !(4..=32).contains(&subgroup_size) {
        return Err(format!("it needs subgroups of 4 to 32 lanes, here they have {subgroup_size}"));
    }
    let shape = &problem.shape;
    let widest = shape.head_dim.max(shape.head_dim_v);
    let rows_format = lane_row_format(row_format(problem), device);
    if rows_format.access == RowAccess::Scalar && widest > 64 {
        return Err(format!(
            "it serves rows whose length and strides aren't multiples of 4 up to head_dim 64, here it is {widest}: \
             longer ones would take seconds to compile"
        ));
    }
    let most = (DECODE_LANES_ROWS.iter()).find(|&&(longest, _)| widest <= longest);
    let rows = block_rows(problem, most.map_or(1, |&(_, rows)| rows));
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: DECODE_BLOCK_KV },
        head_dim: room(shape.head_dim, &ROOMS),
        head_dim_v: room(shape.head_dim_v, &ROOMS),
        rows: rows_format,
        form: ForwardForm::DecodeLanes { subgroup_size, rows, split: false },
    };
    Ok(split(problem, device, config, num_splits))
}

fn decode_shared(
    problem: &Problem,
    device: &DeviceTraits,
    num_splits: Option<usize>,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let shape = &problem.shape;
    let head_dim = room(shape.head_dim, &[16, 32, 64, 128, 192, 256]);
    // q and the shares of the products are in workgroup memory together.
    let most = if head_dim.capacity <= 128 { 8 } else { 4 };
    let rows_format = row_format(problem);
    let invocations = 128;
    // No more neighbours than a key has runs, where that leaves each its own key.
    let strides = problem.strides();
    let k_run = run(problem.dtypes.k, rows_format.access, strides.k, shape.head_dim);
    let runs = head_dim.capacity / 4 / k_run;
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: DECODE_BLOCK_KV },
        head_dim,
        head_dim_v: room(shape.head_dim_v, &[16, 32, 64, 128, 192, 256]),
        rows: rows_format,
        form: ForwardForm::Decode {
            invocations,
            columns: runs.clamp(invocations / DECODE_BLOCK_KV, 8),
            rows: block_rows(problem, most),
            k_run,
            v_run: run(problem.dtypes.v, rows_format.access, strides.v, shape.head_dim_v),
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

fn check_queries(problem: &Problem) -> Result<(), String> {
    match problem.shape.seq_len_q {
        0..=MAX_DECODE_QUERIES => Ok(()),
        queries => {
            Err(format!("it serves up to {MAX_DECODE_QUERIES} queries, here there are {queries}"))
        }
    }
}

/// The rows of a block: the packed rows of a kv head in as few blocks of at most `most`, a power of two, as it takes; a
/// power of two, so that few pipelines serve all groups.
fn block_rows(problem: &Problem, most: usize) -> usize {
    let packed = (problem.shape.group_size() * problem.shape.seq_len_q).max(1);
    packed.div_ceil(packed.div_ceil(most)).next_power_of_two()
}

/// A config whose kernel writes parts if the keys are split.
fn split(
    problem: &Problem,
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
    problem: &Problem,
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
    usize::div_ceil(workgroups, others).min(longest)
}

/// Rows of the lengths that models have get kernels with just their room, others read zeros up to the next one.
const ROOMS: [usize; 8] = [16, 32, 64, 80, 96, 128, 192, 256];

/// The smallest of `capacities` that `length` fits; few of them, so that few pipelines serve all lengths.
fn room(length: usize, capacities: &[usize]) -> RowLength {
    let capacity = (capacities.iter().copied())
        .find(|&capacity| length <= capacity)
        .unwrap_or(crate::shape::MAX_HEAD_DIM);
    RowLength { capacity, exact: capacity == length }
}

/// Four elements at a time where every row starts at a multiple of that.
pub(crate) fn row_format(problem: &Problem) -> RowFormat {
    let access = match forward_rows_are_aligned(problem) {
        true => RowAccess::Vec4,
        false => RowAccess::Scalar,
    };
    RowFormat { access, dtypes: problem.dtypes }
}

/// The same for kernels that are for CPUs.
fn lane_row_format(format: RowFormat, device: &DeviceTraits) -> RowFormat {
    match format.access {
        RowAccess::Vec4 if device.reads_wide => RowFormat { access: RowAccess::Wide, ..format },
        _ => format,
    }
}

/// The same for the backward pass, whose own tensors count too.
fn backward_row_format(problem: &Problem, strides: &GradientStrides) -> RowFormat {
    let shape = &problem.shape;
    let aligned = forward_rows_are_aligned(problem)
        && are_aligned(&[
            (strides.dout, shape.head_dim_v),
            (strides.dq, shape.head_dim),
            (strides.dk, shape.head_dim),
            (strides.dv, shape.head_dim_v),
        ]);
    let access = if aligned { RowAccess::Vec4 } else { RowAccess::Scalar };
    RowFormat { access, dtypes: problem.dtypes }
}

fn forward_rows_are_aligned(problem: &Problem) -> bool {
    let (strides, shape) = (problem.strides(), &problem.shape);
    are_aligned(&[
        (strides.q, shape.head_dim),
        (strides.k, shape.head_dim),
        (strides.v, shape.head_dim_v),
        (strides.o, shape.head_dim_v),
    ])
}

/// Whether every row of these tensors starts at a multiple of 4 elements and is as long.
fn are_aligned(tensors: &[(Strides, usize)]) -> bool {
    tensors.iter().all(|(strides, length)| {
        let [batch, head, seq, dim] = strides.to_array();
        dim == 1 && [batch, head, seq, *length].iter().all(|n| n.is_multiple_of(4))
    })
}
