//! Windows of what workgroups loop over: where one reaches more keys, or queries, than a device binds in one piece, the same
//! workgroups are dispatched once for each window, in order, and go on from what the windows before have left.

use std::ops::Range;

use super::cut::{Axis, Bounds, Grid, MOST_PIECES, Tensor, cut};
use super::pieces::Share;
use super::work::{self, Stage};
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::{BackwardConfig, ForwardConfig};
use crate::kernel::params::Params;
use crate::problem::{GradientTensors, Resolved};
use crate::tensor::sequences::{KeySequences, QuerySequences};
use crate::tensor::shape::{Indexing, Layout, Shape};

/// A window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Window {
    Keys {
        rows: Range<usize>,
        /// What they are of: 2, rows, or 0, the blocks of a pool.
        axis: usize,
        /// The rows on either side that tiles of keys may reach into: these begin where a sequence does, windows at multiples
        /// of a tile's rows.
        margin: usize,
    },
    /// Rows of a cache, numbered through over all sequences and heads as they lie in memory.
    Cache { rows: Range<usize> },
    /// The same rows of some query heads of each group.
    Queries { heads: Range<usize>, rows: Range<usize>, group: usize },
}

impl Window {
    /// Of a tensor that is looped over, what the window has; of others, what there was.
    fn of(&self, tensor: &Tensor) -> Tensor {
        let mut tensor = *tensor;
        match (self, tensor.binding) {
            (Self::Keys { rows, axis, margin }, Binding::K | Binding::V) => {
                let end = rows.end.saturating_add(*margin);
                tensor.reach[*axis] = Axis::Between(rows.start.saturating_sub(*margin), end);
            }
            (Self::Cache { rows }, Binding::CacheK | Binding::CacheV) => {
                let [batch, heads, of_head, row] = tensor.indexing.dims;
                let dims = [1, 1, batch * heads * of_head, row];
                tensor.indexing =
                    Indexing { dims, strides: Layout::Bhsd.strides(dims), ..tensor.indexing };
                tensor.reach = [Axis::All, Axis::All, Axis::Between(rows.start, rows.end)];
            }
            (
                Self::Queries { heads, rows, group },
                Binding::Q | Binding::Dout | Binding::RowTerms | Binding::Bias,
            ) => {
                if tensor.reach[1] == Axis::Group(*group) {
                    tensor.reach[1] = Axis::PartOfGroup(*group, heads.start, heads.end);
                }
                // A bias may be the same for all rows.
                if tensor.indexing.dims[2] > 1 {
                    tensor.reach[2] = Axis::Between(rows.start, rows.end);
                }
            }
            _ => {}
        }
        tensor
    }

    /// Rows, heads and splits are fewer than 32 bits count: `Params::new` and `PartLayout` have refused others.
    fn params(&self, number: usize, count: usize, params: Params) -> Params {
        let (heads, rows) = match self {
            Self::Keys { rows, .. } | Self::Cache { rows } => (&(0..0), rows),
            Self::Queries { heads, rows, .. } => (heads, rows),
        };
        Params {
            first_row: rows.start as u32,
            end_row: rows.end as u32,
            first_head: heads.start as u32,
            end_head: heads.end as u32,
            windows_follow: u32::from(number + 1 < count),
            first_split: number as u32 * params.num_splits,
            ..params
        }
    }
}

/// The shares of a kernel's work, in order: one for each window, or the whole where there are none. A decode kernel has splits
/// of its own for each.
pub(crate) fn shares(whole: Share, windows: &[Window]) -> Vec<Share> {
    if windows.is_empty() {
        return vec![whole];
    }
    let Share { grid, reached, workgroups, params } = whole;
    let of_window = |(number, window): (usize, &Window)| Share {
        grid: Grid { work: grid.work / windows.len() as u64, ..grid },
        reached: reached.iter().map(|tensor| window.of(tensor)).collect(),
        workgroups: workgroups.clone(),
        params: window.params(number, windows.len(), params),
    };
    windows.iter().enumerate().map(of_window).collect()
}

/// The windows of the keys that a forward kernel needs: none where it binds what a workgroup reaches in one piece, or where
/// they don't help.
pub(super) fn of_forward(
    problem: &Resolved,
    config: &ForwardConfig,
    splits: usize,
    bounds: &Bounds,
) -> Result<Vec<Window>> {
    let work = work::forward(problem, config, splits);
    Ok(match needs_windows(&work, bounds)? {
        true => of_keys(&problem.shape, &work, bounds, config.grid.block_kv),
        false => Vec::new(),
    })
}

/// The same of the kernels that make dq, and of queries of those that make dk and dv.
pub(super) fn of_backward(
    problem: &Resolved,
    config: &BackwardConfig,
    gradients: &GradientTensors,
    bounds: &Bounds,
) -> Result<[Vec<Window>; 2]> {
    let shape = &problem.shape;
    let work = |stage| work::backward(problem, config, gradients, gradients, stage);
    let (dq, dkdv) = (work(Stage::Dq), work(Stage::DkDv));
    let mut windows = [Vec::new(), Vec::new()];
    if needs_windows(&dq, bounds)? {
        windows[0] = of_keys(shape, &dq, bounds, config.dq_grid.block_kv);
    }
    if needs_windows(&dkdv, bounds)? {
        windows[1] = of_queries(shape, &dkdv, bounds, config.dkdv_grid.block_q);
    }
    Ok(windows)
}

/// The same of the kernel that appends to a cache.
pub(crate) fn of_append(problem: &Resolved, work: &Work, bounds: &Bounds) -> Result<Vec<Window>> {
    let [batch, heads, rows, row] = problem.k.indexing.dims;
    let rows = batch * heads * rows;
    // Kernels number them by their elements, which 32 bits have to count.
    if !needs_windows(work, bounds)? || rows.saturating_mul(row) > u32::MAX as usize {
        return Ok(Vec::new());
    }
    let window = |rows| Window::Cache { rows };
    let step = most(rows, |rows| fits(&window(0..rows), work, bounds));
    Ok(match count(rows, step) {
        0..=MOST_PIECES => steps(rows, step).map(window).collect(),
        _ => Vec::new(),
    })
}

pub(crate) type Work = (Grid, Vec<Tensor>);

fn needs_windows((grid, reached): &Work, bounds: &Bounds) -> Result<bool> {
    Ok(cut(grid, reached, bounds, 0..grid.workgroups()?).is_err())
}

/// As many tiles of keys in each as every workgroup can bind; as many rows or blocks, where keys lie in an order that the device
/// alone knows.
pub(super) fn of_keys(shape: &Shape, work: &Work, bounds: &Bounds, tile: usize) -> Vec<Window> {
    let [_, rows] = shape.kv_rows();
    let (rows, axis, tile, margin) = match shape.sequences.kv {
        KeySequences::Uniform => (rows, 2, tile, 0),
        KeySequences::Cached { .. } | KeySequences::Packed { .. } => (rows, 2, tile, tile),
        KeySequences::Ring => (rows, 2, 1, 0),
        KeySequences::Paged { blocks, .. } => (blocks, 0, 1, 0),
    };
    let window = |rows| Window::Keys { rows, axis, margin };
    let tiles = most(rows.div_ceil(tile), |tiles| {
        // One in the midst has a margin on both sides.
        let rows = tiles.saturating_mul(tile);
        fits(&window(margin..rows.saturating_add(margin)), work, bounds)
    });
    let step = tiles.saturating_mul(tile);
    if count(rows, step) > MOST_PIECES {
        return Vec::new();
    }
    steps(rows, step).map(window).collect()
}

/// The fewest of: some heads of a group with all of their rows; some rows of all of its heads; some rows of one head.
pub(super) fn of_queries(shape: &Shape, work: &Work, bounds: &Bounds, tile: usize) -> Vec<Window> {
    let (group, rows) = (shape.group_size(), shape.seq_len_q);
    if shape.sequences.q != QuerySequences::Uniform {
        return Vec::new();
    }
    let window = |heads, rows| Window::Queries { heads, rows, group };
    let heads = most(group, |heads| fits(&window(0..heads, 0..rows), work, bounds));
    let rows_of = |heads: usize| {
        let tiles = most(rows.div_ceil(tile), |tiles| {
            fits(&window(0..heads, 0..tiles.saturating_mul(tile)), work, bounds)
        });
        tiles.saturating_mul(tile)
    };
    let forms = [(heads, rows), (group, rows_of(group)), (1, rows_of(1))];
    let windows_of = |&(of_heads, of_rows): &(usize, usize)| {
        count(group, of_heads).saturating_mul(count(rows, of_rows))
    };
    let fewest = forms.into_iter().min_by_key(windows_of);
    let Some((of_heads, of_rows)) = fewest.filter(|form| windows_of(form) <= MOST_PIECES) else {
        return Vec::new();
    };
    steps(group, of_heads)
        .flat_map(|heads| steps(rows, of_rows).map(move |rows| (heads.clone(), rows)))
        .map(|(heads, rows)| window(heads, rows))
        .collect()
}

/// How many steps [`steps`] takes: of none, more than there can be.
const fn count(end: usize, step: usize) -> usize {
    if step == 0 { usize::MAX } else { end.div_ceil(step) }
}

/// From 0 to `end` in steps of that many.
fn steps(end: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..end).step_by(step.max(1)).map(move |start| start..end.min(start.saturating_add(step)))
}

/// The largest number up to `end` that is right, as all below are.
fn most(end: usize, is_right: impl Fn(usize) -> bool) -> usize {
    let (mut right, mut wrong) = (0, end.saturating_add(1));
    while wrong - right > 1 {
        let middle = right + (wrong - right) / 2;
        if is_right(middle) {
            right = middle;
        } else {
            wrong = middle;
        }
    }
    right
}

/// Whether every workgroup can bind the window, wherever it and its head begin: at multiples of the alignment, and with rows
/// that stand together.
fn fits(window: &Window, (grid, reached): &Work, bounds: &Bounds) -> bool {
    let of_window = reached.iter().map(|tensor| (window.of(tensor), tensor.reach));
    let mut looped_over = of_window.filter(|(of, before)| of.reach != *before).map(|(of, _)| of);
    looped_over.all(|tensor| {
        let Indexing { size, together, .. } = tensor.indexing;
        let slack = ((bounds.alignment + 2 * together) * size) as u64;
        let binding_bytes = bounds.binding_bytes.saturating_sub(slack);
        Bounds { binding_bytes, ..*bounds }.windows(grid, &[tensor], &(0..1)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;
    use crate::kernel::key::{BackwardKernel, ForwardKernel};
    use crate::kernel::tiles::{DeviceTraits, Splitting, backward_candidates, candidates};
    use crate::plan::backward::BackwardOptions;
    use crate::problem::{GradientStrides, Problem, TensorStrides};
    use crate::tensor::dtype::Dtype;
    use crate::tensor::shape::Layout;

    fn bounds(binding_bytes: u64) -> Bounds {
        Bounds { binding_bytes, alignment: 256, workgroups_per_dimension: 65_535, work: u64::MAX }
    }

    fn forward(problem: &Resolved) -> ForwardConfig {
        let all = candidates(problem, &device(), Splitting::Suitable);
        all.into_iter().find(|(kernel, _)| *kernel == ForwardKernel::Tiled).unwrap().1.unwrap()
    }

    fn backward(problem: &Resolved) -> BackwardConfig {
        let TensorStrides { q, k, v, o } = problem.strides();
        let strides = GradientStrides { dout: o, dq: q, dk: k, dv: v };
        let all = backward_candidates(problem, &strides, Dtype::F32.into(), &device());
        all.into_iter().find(|(kernel, _)| *kernel == BackwardKernel::Tiled).unwrap().1.unwrap()
    }

    fn device() -> DeviceTraits {
        DeviceTraits { is_cpu: false, ..DeviceTraits::with_everything(8) }
    }

    /// Every share can be cut, unless what isn't looped over is too much.
    fn check((grid, reached): Work, windows: &[Window], bounds: &Bounds) {
        let workgroups = 0..grid.workgroups().unwrap();
        let whole = Share { grid, reached, workgroups, params: Params::default() };
        for Share { grid, reached, workgroups, .. } in shares(whole, windows) {
            if let Err(Error::Limit { what, .. }) = cut(&grid, &reached, bounds, workgroups) {
                let looped_over = windows.first().is_some_and(|window| {
                    let is_of = |tensor: &&Tensor| what.starts_with(&format!("{} (", tensor.name));
                    let tensor = reached.iter().find(is_of).unwrap();
                    window.of(tensor).reach != tensor.reach
                });
                assert!(!looped_over, "{what}");
            }
        }
    }

    proptest! {
        /// Windows follow each other without a gap over all keys, and over all rows of all heads of a group; each can be bound.
        #[test]
        fn windows_cover_what_is_looped_over(
            (batch, kv_heads, group, q, kv) in (1..3usize, 1..4usize, 1..5usize, 1..300usize, 1..700usize),
            (dim, bshd, half, bytes) in (1..40usize, any::<bool>(), any::<bool>(), 4_000..60_000u64),
        ) {
            let shape = Shape::new(batch, kv_heads * group, q, dim).num_kv_heads(kv_heads).seq_len_kv(kv);
            let layout = if bshd { Layout::Bshd } else { Layout::Bhsd };
            let dtype = if half { Dtype::F16 } else { Dtype::F32 };
            let problem = Resolved::new(Problem::new(shape).layout(layout).dtypes(dtype)).unwrap();
            let bounds = bounds(bytes);
            let config = forward(&problem);
            let mut keys = of_forward(&problem, &config, 1, &bounds).unwrap();
            check(work::forward(&problem, &config, 1), &keys, &bounds);

            let made = BackwardOptions::default().resolve(&problem).unwrap();
            let config = backward(&problem);
            let [more_keys, queries] = of_backward(&problem, &config, &made, &bounds).unwrap();
            for (stage, windows) in [(Stage::Dq, &more_keys), (Stage::DkDv, &queries)] {
                check(work::backward(&problem, &config, &made, &made, stage), windows, &bounds);
            }
            keys.extend(more_keys);
            let mut next = 0;
            for window in &keys {
                let Window::Keys { rows, axis: 2, margin: 0 } = window else { panic!("{window:?}") };
                prop_assert!(rows.start == next % kv && !rows.is_empty());
                next = rows.end;
            }
            prop_assert!(next == 0 || next == kv);
            let (mut next, mut next_head) = (0, 0);
            for window in &queries {
                let Window::Queries { heads, rows, .. } = window else { panic!("{window:?}") };
                prop_assert!(rows.start == next && heads.start == next_head && !heads.is_empty());
                next = rows.end % q;
                next_head = if next == 0 { heads.end } else { heads.start };
            }
            prop_assert!(queries.is_empty() || (next, next_head) == (0, group));
        }
    }

    #[test]
    fn what_fits_has_no_windows() {
        let problem = Resolved::new(Problem::new(Shape::new(1, 1, 70, 20))).unwrap();
        let config = forward(&problem);
        assert_eq!(of_forward(&problem, &config, 1, &bounds(70 * 80)).unwrap(), []);
        assert!(!of_forward(&problem, &config, 1, &bounds(70 * 80 - 4)).unwrap().is_empty());
    }
}
