//! How the workgroups of each kernel are numbered, how much they do, and what they reach.

use super::cut::{Axis, Grid, Tensor};
use super::mask_tables::WORK_OF_CELL;
use super::tensors::{Numbering, Tensors};
use crate::kernel::key::{BackwardConfig, Binding, ForwardConfig};
use crate::kernel::source::WORKGROUP_SIZE;
use crate::problem::{GradientTensors, Resolved};
use crate::tensor::shape::Shape;

/// How many blocks of `rows` rows the queries of a kv head's query heads are.
pub(super) const fn packed_blocks(shape: &Shape, rows: usize) -> usize {
    (shape.group_size() * shape.seq_len_q).div_ceil(rows)
}

/// Of a forward kernel, with the keys in `splits` parts where it is for few queries.
pub(super) fn forward(
    problem: &Resolved,
    config: &ForwardConfig,
    splits: usize,
) -> (Grid, Vec<Tensor>) {
    let shape = &problem.shape;
    let row = (shape.head_dim + shape.head_dim_v) as u64;
    let splits = if config.form.is_split() { splits } else { 1 };
    let (grid, numbering) = match config.form.packed_rows() {
        Some(rows) => {
            let work = (rows * shape.seq_len_kv.div_ceil(splits)) as u64 * row;
            let sizes = [shape.batch, shape.num_kv_heads, 1];
            let blocks = packed_blocks(shape, rows);
            (Grid::items(sizes, splits * blocks, 1, work), Numbering::KvHeads)
        }
        None => {
            let work = (config.grid.block_q * shape.seq_len_kv) as u64 * row;
            let sizes = [shape.batch, shape.num_heads, shape.seq_len_q];
            (Grid::blocks(sizes, config.grid.block_q, true, work), Numbering::Queries)
        }
    };
    let tensors = Tensors::new(problem, numbering);
    let mut reached = vec![tensors.q(), tensors.k(), tensors.v()];
    if !config.form.is_split() {
        reached.extend([tensors.o(), tensors.lse(Binding::LseOut)]);
        if config.folds {
            reached.push(tensors.of_rows(Binding::SegmentStats, "stats of segments", 8));
        }
    }
    reached.extend(tensors.bias());
    (grid, reached)
}

/// Rows that an invocation of the kernel for dbias has at a time: `TILE_ROWS` of shaders/backward/bias.wgsl.
const BIAS_TILE_ROWS: usize = 8;

/// What the backward pass does one after the other. A stage is cut in the same way, whichever gradients are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Terms,
    Dq,
    /// dk and dv, or dk alone.
    DkDv,
    /// dv, where dk and dv have a kernel each: a bias takes the last of 8 bindings of the kernel for both, or this one's form has
    /// no kernel for both.
    SecondDkDv,
    Bias,
    Sinks,
}

impl Stage {
    pub(super) const ALL: [Self; 6] =
        [Self::Terms, Self::Dq, Self::DkDv, Self::SecondDkDv, Self::Bias, Self::Sinks];
}

/// No work.
const NOTHING: Grid = Grid::blocks([0; 3], 1, false, 0);

/// Of a stage of the backward pass.
pub(super) fn backward(
    problem: &Resolved,
    config: &BackwardConfig,
    gradients: &GradientTensors,
    stage: Stage,
) -> (Grid, Vec<Tensor>) {
    let shape = &problem.shape;
    let tile = WORKGROUP_SIZE as usize;
    let row = 2 * (shape.head_dim + shape.head_dim_v) as u64;
    let queries = [shape.batch, shape.num_heads, shape.seq_len_q];
    let tensors = Tensors::new(problem, Numbering::Queries);
    let inputs = |tensors: &Tensors<'_>| {
        let dout = tensors.of_queries(Binding::Dout, "dout", gradients.dout.indexing);
        let terms = tensors.of_rows(Binding::RowTerms, "lse and delta", 16);
        let own = [tensors.q(), tensors.k(), tensors.v(), dout, terms];
        own.into_iter().chain(tensors.bias()).collect::<Vec<_>>()
    };
    match stage {
        Stage::Terms => {
            // A head's rows are rounded up to whole workgroups, so that none has rows of two heads.
            let grid = Grid::blocks(queries, tile, false, (tile * shape.head_dim_v) as u64);
            let reached = vec![
                tensors.of_queries(Binding::OIn, "o", problem.o.indexing),
                tensors.of_queries(Binding::Dout, "dout", gradients.dout.indexing),
                tensors.of_rows(Binding::LseIn, "lse", 4),
                tensors.of_rows(Binding::Dlse, "dlse", 4),
                tensors.of_rows(Binding::RowTermsOut, "lse and delta", 16),
            ];
            (grid, reached)
        }
        Stage::Dq => {
            let block = config.dq_grid.block_q;
            let grid = Grid::blocks(queries, block, true, (block * shape.seq_len_kv) as u64 * row);
            let mut reached = inputs(&tensors);
            reached.push(tensors.of_rows(Binding::RowTermsOut, "lse and delta", 16));
            reached.push(tensors.of_queries(Binding::Dq, "dq", gradients.dq.indexing));
            (grid, reached)
        }
        Stage::SecondDkDv if !problem.score.bias && !config.form.makes_apart() => {
            (NOTHING, Vec::new())
        }
        Stage::DkDv | Stage::SecondDkDv => {
            let block = config.dkdv_grid.block_kv;
            let keys = [shape.batch, shape.num_kv_heads, shape.seq_len_kv];
            let rows = shape.group_size() * shape.seq_len_q;
            let work = (block as u64 * row).saturating_mul(rows as u64);
            let grid = Grid::blocks(keys, block, false, work);
            let tensors = Tensors::new(problem, Numbering::Keys);
            let mut reached = inputs(&tensors);
            reached.push(tensors.of_keys(Binding::Dk, "dk", gradients.dk.indexing));
            reached.push(tensors.of_keys(Binding::Dv, "dv", gradients.dv.indexing));
            (grid, reached)
        }
        Stage::Bias => {
            if !problem.score.bias {
                return (NOTHING, Vec::new());
            }
            let [batch, heads, rows] = problem.data.bias.dims(shape);
            let shared = problem.data.bias.broadcast_q;
            let key_blocks = shape.seq_len_kv.div_ceil(tile);
            let cells = tile * if shared { shape.seq_len_q } else { BIAS_TILE_ROWS };
            let times = (shape.batch / batch.max(1) * (shape.num_heads / heads)) as u64;
            let mut grid = Grid::items(
                [batch, heads, if shared { rows.min(1) } else { rows }],
                key_blocks,
                1,
                (cells as u64).saturating_mul(times).saturating_mul(row / 2 + WORK_OF_CELL),
            );
            grid.block = if shared { 1 } else { BIAS_TILE_ROWS };
            let tensors = Tensors::by_bias(problem);
            let mut reached = inputs(&tensors);
            reached.push(tensors.of_bias(Binding::Dbias, "dbias", gradients.dtypes.dbias));
            (grid, reached)
        }
        Stage::Sinks => {
            if !problem.score.sinks {
                return (NOTHING, Vec::new());
            }
            let rows = (shape.batch * shape.seq_len_q) as u64;
            let grid = Grid::blocks([1, shape.num_heads, 1], 1, false, rows * 4);
            let [_, heads, _] = tensors.queries;
            let dsinks = [1, 1, 1, shape.num_heads];
            let terms = Tensor {
                reach: [Axis::All, heads, Axis::All],
                ..tensors.of_rows(Binding::RowTerms, "lse and delta", 16)
            };
            let all = [Axis::All; 3];
            (grid, vec![terms, Tensor::dense(Binding::Dsinks, "dsinks", dsinks, 4, all)])
        }
    }
}
