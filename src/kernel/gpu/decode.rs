//! `decode`: a workgroup's invocations share the keys of few packed rows.

use crate::kernel::key::{ForwardConfig, ForwardForm, RowAccess, Windowed};
use crate::kernel::tiles::DeviceTraits;
use crate::kernel::tiles::rows::{row_capacity, row_format};
use crate::kernel::tiles::splits::{
    BLOCK_KV, MAX_DECODE_QUERIES, Splitting, block_rows, check_queries, split,
};
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;
use crate::tensor::dtype::Dtype;
use crate::tensor::shape::Strides;

/// The room that there is for rows.
const CAPACITIES: [usize; 9] = [16, 32, 64, 128, 192, 256, 384, 512, 576];

pub(in crate::kernel) fn forward(
    problem: &Resolved,
    device: &DeviceTraits,
    splitting: Splitting,
) -> Result<ForwardConfig, String> {
    check_queries(problem)?;
    let shape = &problem.shape;
    let [head_dim, head_dim_v] =
        [shape.head_dim, shape.head_dim_v].map(|length| row_capacity(length, &CAPACITIES));
    // q and the shares of the products are in workgroup memory together.
    let most = match (head_dim.capacity <= 128, device.registers < 128) {
        (true, false) => 8,
        (true, true) | (false, false) => 4,
        (false, true) => 2,
    };
    // Of longer values, a workgroup of twice as many invocations has its shares of o there.
    let most = if head_dim_v.capacity > 512 { 2 } else { most };
    let rows_format = row_format(problem);
    // A row of the output has an invocation for each of its vectors. Of two values at a time, each invocation reads half as many
    // of a tile: Adreno's compiler reads all that it knows of before it multiplies the first.
    // With as few registers as Adreno 6xx has, but not Intel's GPUs, that is too much of f32 sooner.
    let longest = match (device.registers, problem.dtypes.v) {
        (65..=127, Dtype::F32) => 192,
        (0..=127, _) => 384,
        _ => 512,
    };
    let invocations = if head_dim_v.capacity > longest { 256 } else { 128 };
    // No more neighbours than a key has runs, where that leaves each its own key.
    let strides = problem.strides;
    let k_run = run(problem.dtypes.k, rows_format.access, strides.k, shape.head_dim);
    let runs = head_dim.capacity / 4 / k_run;
    let rows = block_rows(problem, most);
    // The output's registers per invocation: v_run components of 4 of every row. Unpacking 4 bits takes some, too.
    let few_registers = if problem.dtypes.v == Dtype::I4 { 192 } else { 128 };
    let most_vectors = if device.registers <= few_registers { 8 } else { 16 };
    let v_run = run(problem.dtypes.v, rows_format.access, strides.v, shape.head_dim_v);
    // Shares of a row of the output lie where those of the products did, beside q.
    let most_of_run = if head_dim.capacity > 256 || invocations > 128 { 2 } else { 4 };
    let config = ForwardConfig {
        grid: TileGrid { block_q: MAX_DECODE_QUERIES, block_kv: BLOCK_KV },
        head_dim,
        head_dim_v,
        rows: rows_format,
        folds: false,
        windows: Windowed::default(),
        form: ForwardForm::Decode {
            invocations,
            threads_per_row: runs.clamp(invocations / BLOCK_KV, 8),
            rows,
            k_run,
            v_run: v_run.min((most_vectors / rows).max(1)).min(most_of_run),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::limits::Needs;
    use crate::problem::Problem;
    use crate::tensor::dtype::Dtypes;
    use crate::tensor::shape::{MAX_HEAD_DIM, Shape};

    /// Rows of every length, in every type, whatever is packed: within WebGPU's baseline, with an invocation for each vector
    /// of the output.
    #[test]
    fn rows_of_every_length_fit() {
        for (head_dim, head_dim_v) in (1..=MAX_HEAD_DIM)
            .step_by(5)
            .flat_map(|n| [(n, n), (n, MAX_HEAD_DIM), (MAX_HEAD_DIM, n), (n, 64), (64, n)])
        {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::I8, Dtype::I4] {
                for (registers, queries) in
                    [(64, 2), (96, 1), (128, 3), (192, 16), (255, 1), (255, 16)]
                {
                    let shape = Shape::new(1, 2, queries, head_dim).head_dim_v(head_dim_v);
                    let problem = Problem::new(shape.num_kv_heads(1).seq_len_kv(99));
                    let problem = problem.dtypes(Dtypes::default().k(dtype).v(dtype));
                    let device = DeviceTraits {
                        is_cpu: false,
                        registers,
                        subgroups: (32, 32),
                        ..DeviceTraits::with_everything(8)
                    };
                    let problem = Resolved::new(problem).unwrap();
                    let config = forward(&problem, &device, Splitting::Given(1)).unwrap();
                    let needs = Needs::of_forward(&config, false);
                    needs.refusal(&device.limits).unwrap();
                    let ForwardForm::Decode { v_run, .. } = config.form else {
                        panic!("{config:?}")
                    };
                    assert!(config.head_dim_v.capacity / 4 <= needs.invocations, "{config:?}");
                    assert!(config.head_dim_v.capacity.is_multiple_of(4 * v_run), "{config:?}");
                }
            }
        }
    }
}
