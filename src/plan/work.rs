//! How the workgroups of each kernel are numbered, how much they do, and what they reach.

use super::backward::custom::CustomWork;
use super::cut::{Axis, Grid, Tensor};
use super::mask_tables::WORK_OF_CELL;
use super::tensors::{Numbering, Tensors};
use crate::auxiliary::AuxTensor;
use crate::kernel::binding::Binding;
use crate::kernel::key::{BackwardConfig, ForwardConfig};
use crate::kernel::source::{BIAS_ROWS, SEGMENT, WORKGROUP_SIZE};
use crate::problem::{GradientTensors, Resolved};
use crate::tensor::sequences::KeySequences;
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
    Slopes,
    /// Sums of the elements that a score function reads, and their gradients from these.
    Custom,
    CustomSums,
    /// dk and dv of a paged cache, from those of each sequence.
    PagesDk,
    PagesDv,
}

impl Stage {
    pub(super) const ALL: [Self; 11] = [
        Self::Terms,
        Self::Dq,
        Self::DkDv,
        Self::SecondDkDv,
        Self::Bias,
        Self::Sinks,
        Self::Slopes,
        Self::Custom,
        Self::CustomSums,
        Self::PagesDk,
        Self::PagesDv,
    ];
}

/// No work.
const NOTHING: Grid = Grid::blocks([0; 3], 1, false, 0);

/// Of a stage of the backward pass, with what the dk/dv pass writes, and, where sequences share rows, what is made of that.
pub(super) fn backward(
    problem: &Resolved,
    config: &BackwardConfig,
    gradients: &GradientTensors,
    pool: &GradientTensors,
    stage: Stage,
) -> (Grid, Vec<Tensor>) {
    let shape = &problem.shape;
    let tile = WORKGROUP_SIZE as usize;
    let row = 2 * (shape.head_dim + shape.head_dim_v) as u64;
    // Where sequences are packed, there may be none with a row: then nothing is written.
    let [_, q_rows] = shape.q_rows();
    let [_, kv_rows] = shape.kv_rows();
    let queries = [shape.batch, shape.num_heads, if q_rows == 0 { 0 } else { shape.seq_len_q }];
    let keys = [shape.batch, shape.num_kv_heads, if kv_rows == 0 { 0 } else { shape.seq_len_kv }];
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
            let rows = shape.group_size() * shape.seq_len_q;
            let work = (block as u64 * row).saturating_mul(rows as u64);
            let grid = Grid::blocks(keys, block, false, work);
            let tensors = Tensors::new(problem, Numbering::Keys);
            let mut reached = inputs(&tensors);
            for (binding, name, placed) in
                [(Binding::Dk, "dk", gradients.dk), (Binding::Dv, "dv", gradients.dv)]
            {
                let lie_apart = matches!(shape.sequences.kv, KeySequences::Paged { .. });
                let reach = if lie_apart { [Axis::Own; 3] } else { tensors.keys };
                reached.push(Tensor { reach, ..tensors.of_keys(binding, name, placed.indexing) });
            }
            (grid, reached)
        }
        Stage::Bias => {
            if !problem.score.bias {
                return (NOTHING, Vec::new());
            }
            let [batch, heads, rows, keys] = problem.data.bias.dims(shape);
            let shared = problem.data.bias.broadcast_q;
            let key_blocks = keys.div_ceil(tile);
            let keys_of_block =
                if problem.data.bias.broadcast_kv { shape.seq_len_kv } else { tile };
            let rows_of_block = if shared { shape.seq_len_q } else { BIAS_ROWS };
            let cells = keys_of_block.saturating_mul(rows_of_block);
            let times = (shape.batch / batch.max(1) * (shape.num_heads / heads)) as u64;
            let mut grid = Grid::items(
                [batch, heads, if shared { rows.min(1) } else { rows }],
                key_blocks,
                1,
                (cells as u64).saturating_mul(times).saturating_mul(row / 2 + WORK_OF_CELL),
            );
            grid.block = if shared { 1 } else { BIAS_ROWS };
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
        Stage::Custom => {
            let Some(custom) = CustomWork::of(problem) else {
                return (NOTHING, Vec::new());
            };
            let keys = shape.seq_len_kv.min(SEGMENT);
            let cells = (custom.rows as u64).saturating_mul(keys as u64);
            let work = cells.saturating_mul(row / 2 + WORK_OF_CELL);
            let mut grid = Grid::items(queries, shape.seq_len_kv.div_ceil(SEGMENT), 1, work);
            grid.block = custom.rows;
            (grid, inputs(&tensors))
        }
        // What it reads and writes is small, and bound as a whole.
        Stage::CustomSums => {
            let elements = CustomWork::of(problem).map_or(0, |custom| custom.elements());
            (Grid::items([1, 1, elements], 1, 1, WORK_OF_CELL), Vec::new())
        }
        Stage::PagesDk | Stage::PagesDv => {
            let KeySequences::Paged { block_size, blocks, blocks_per_sequence } =
                shape.sequences.kv
            else {
                return (NOTHING, Vec::new());
            };
            let (binding, name, length, own) = match stage {
                Stage::PagesDk => (Binding::Dk, "dk", shape.head_dim, pool.dk),
                _ => (Binding::Dv, "dv", shape.head_dim_v, pool.dv),
            };
            let parts = block_size.saturating_mul(length.div_ceil(4)).div_ceil(tile);
            let entries = shape.batch.saturating_mul(blocks_per_sequence);
            let grid = Grid::items([blocks, shape.num_kv_heads, 1], parts, 1, entries as u64);
            let dims = [shape.batch, shape.num_kv_heads, shape.seq_len_kv, length];
            let of_sequences = [Axis::All, Axis::Own, Axis::All];
            let name_apart = "gradients of each sequence's keys";
            let reached = vec![
                Tensor::dense(Binding::KeyGradients, name_apart, dims, 4, of_sequences),
                Tensor {
                    binding,
                    name,
                    indexing: own.indexing,
                    reach: [Axis::Own, Axis::Own, Axis::All],
                },
            ];
            (grid, reached)
        }
        Stage::Slopes => {
            let Some(sizes) = problem.sizes_of(AuxTensor::AlibiSlopes) else {
                return (NOTHING, Vec::new());
            };
            let (sequences, len) = (sizes[0], sizes.iter().product());
            let rows = (shape.batch / sequences.max(1) * shape.seq_len_q) as u64;
            let grid = Grid::blocks([sequences, shape.num_heads, 1], 1, false, rows * 4);
            let [batch, heads, _] = tensors.queries;
            let batch = if sequences == shape.batch { batch } else { Axis::All };
            let terms = Tensor {
                reach: [batch, heads, Axis::All],
                ..tensors.of_rows(Binding::RowTerms, "lse and delta", 16)
            };
            let (name, all) = ("dalibi_slopes", [Axis::All; 3]);
            (grid, vec![terms, Tensor::dense(Binding::DalibiSlopes, name, [1, 1, 1, len], 4, all)])
        }
    }
}
