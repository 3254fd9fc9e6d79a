//! Windows of rows: where workgroups reach more keys, or queries, than a device binds in one piece, the same workgroups are
//! dispatched once for each window, in order. Of what they loop over, they go on from what the windows before have left; of their
//! own rows, each block belongs to one window.

use std::ops::Range;

use super::cut::{Axis, Bounds, Grid, MOST_PIECES, Tensor, cut};
use super::pieces::Share;
use super::work::{self, Stage};
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::{BackwardConfig, ForwardConfig, Windowed};
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
        /// How many of them the longest sequence takes.
        longest: usize,
        margins: Margins,
    },
    /// Rows of a cache, numbered through over all sequences and heads as they lie in memory.
    Cache { rows: Range<usize> },
    /// The same rows of some query heads of each group.
    Queries {
        heads: Range<usize>,
        rows: Range<usize>,
        group: usize,
        longest: usize,
        margins: Margins,
    },
}

/// How many rows before and behind a window a block or a tile may reach into: it begins where a sequence does, the window anywhere.
type Margins = [usize; 2];

impl Window {
    /// Of a tensor whose rows it is of, what the window has; of others, what there was.
    fn of(&self, tensor: &Tensor) -> Tensor {
        use Binding as B;
        let mut tensor = *tensor;
        let between = |rows: &Range<usize>, [before, behind]: Margins| {
            Axis::Between(rows.start.saturating_sub(before), rows.end.saturating_add(behind))
        };
        match (self, tensor.binding) {
            (Self::Keys { rows, axis, margins, .. }, B::K | B::V | B::Dk | B::Dv) => {
                tensor.reach[*axis] = between(rows, *margins);
            }
            (Self::Cache { rows }, B::CacheK | B::CacheV) => {
                let [batch, heads, of_head, row] = tensor.indexing.dims;
                let dims = [1, 1, batch * heads * of_head, row];
                tensor.indexing =
                    Indexing { dims, strides: Layout::Bhsd.strides(dims), ..tensor.indexing };
                tensor.reach = [Axis::All, Axis::All, Axis::Between(rows.start, rows.end)];
            }
            (
                Self::Queries { heads, rows, group, margins, .. },
                B::Q
                | B::O
                | B::OIn
                | B::Dout
                | B::Dq
                | B::LseIn
                | B::LseOut
                | B::Dlse
                | B::SegmentStats
                | B::RowTerms
                | B::RowTermsOut
                | B::Bias,
            ) => {
                if tensor.reach[1] == Axis::Group(*group) {
                    tensor.reach[1] = Axis::PartOfGroup(*group, heads.start, heads.end);
                }
                // A bias may be the same for all rows, and doesn't lie as they do where sequences begin anywhere.
                let is_bias = tensor.binding == B::Bias;
                if !is_bias || (tensor.indexing.dims[2] > 1 && *margins == [0, 0]) {
                    tensor.reach[2] = between(rows, *margins);
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

    /// The same of a window of the workgroups' own rows.
    const fn own_params(&self, params: Params) -> Params {
        let (Self::Keys { rows, .. } | Self::Cache { rows } | Self::Queries { rows, .. }) = self;
        Params { first_own_row: rows.start as u32, end_own_row: rows.end as u32, ..params }
    }

    /// The most of a workgroup's work that looping over this window is, one of `count`.
    fn work(&self, work: u64, count: usize) -> u64 {
        let (some, all) = match self {
            Self::Keys { rows, longest, .. } => (rows.len(), *longest),
            Self::Cache { .. } => (1, count),
            Self::Queries { heads, rows, group, longest, .. } => {
                (heads.len().saturating_mul(rows.len()), group.saturating_mul(*longest))
            }
        };
        // Not more than `work`.
        (u128::from(work) * some.min(all) as u128 / all.max(1) as u128) as u64
    }
}

/// A kernel's windows: of the workgroups' own rows, and of those that they loop over, all of these for each of the former. None
/// where a dispatch binds such rows in one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) own: Vec<Window>,
    pub(crate) looped: Vec<Window>,
}

impl Windows {
    /// None where there would be more dispatches than a kernel may have pieces.
    fn new(own: Vec<Window>, looped: Vec<Window>) -> Self {
        match own.len().max(1).saturating_mul(looped.len().max(1)) {
            0..=MOST_PIECES => Self { own, looped },
            _ => Self::default(),
        }
    }

    pub(crate) const fn windowed(&self) -> Windowed {
        Windowed { own: !self.own.is_empty(), looped: !self.looped.is_empty() }
    }
}

/// The shares of a kernel's work, in order: one for each window, or the whole where there are none. A decode kernel has splits
/// of its own for each.
pub(crate) fn shares(whole: Share, windows: &Windows) -> Vec<Share> {
    let share = |whole: &Share, window: &Window, work: u64, params: Params| Share {
        grid: Grid { work, ..whole.grid },
        reached: whole.reached.iter().map(|tensor| window.of(tensor)).collect(),
        workgroups: whole.workgroups.clone(),
        params,
    };
    let of_own =
        |window: &Window| share(&whole, window, whole.grid.work, window.own_params(whole.params));
    let mut own: Vec<_> = windows.own.iter().map(of_own).collect();
    if own.is_empty() {
        own.push(whole);
    }
    let count = windows.looped.len();
    if count == 0 {
        return own;
    }
    let of_looped = |whole: &Share| {
        let of_window = |(number, window): (usize, &Window)| {
            let params = window.params(number, count, whole.params);
            share(whole, window, window.work(whole.grid.work, count), params)
        };
        windows.looped.iter().enumerate().map(of_window).collect::<Vec<_>>()
    };
    own.iter().flat_map(of_looped).collect()
}

/// The windows that a forward kernel needs: none where it binds what a workgroup reaches in one piece, or where they don't help.
pub(super) fn of_forward(
    problem: &Resolved,
    config: &ForwardConfig,
    splits: usize,
    bounds: &Bounds,
) -> Result<Windows> {
    let (shape, work) = (&problem.shape, work::forward(problem, config, splits));
    if !needs_windows(&work, bounds)? {
        return Ok(Windows::default());
    }
    let own = match config.form.packed_rows() {
        Some(_) => Vec::new(),
        None => of_own_queries(shape, &[&work], bounds, config.grid.block_q),
    };
    Ok(Windows::new(own, of_keys(shape, &work, bounds, config.grid.block_kv)))
}

/// The same of the kernels that make dq, whose own rows those that prepare the rows have, too, and of those that make dk and dv.
pub(super) fn of_backward(
    problem: &Resolved,
    config: &BackwardConfig,
    gradients: &GradientTensors,
    bounds: &Bounds,
) -> Result<[Windows; 2]> {
    let shape = &problem.shape;
    let work = |stage| work::backward(problem, config, gradients, gradients, stage);
    let [terms, dq, dkdv] = [Stage::Terms, Stage::Dq, Stage::DkDv].map(work);
    let mut windows = [Windows::default(), Windows::default()];
    if needs_windows(&terms, bounds)? || needs_windows(&dq, bounds)? {
        let own = of_own_queries(shape, &[&terms, &dq], bounds, config.dq_grid.block_q);
        windows[0] = Windows::new(own, of_keys(shape, &dq, bounds, config.dq_grid.block_kv));
    }
    if needs_windows(&dkdv, bounds)? {
        let own = of_own_keys(shape, &dkdv, bounds, config.dkdv_grid.block_kv);
        let queries = of_queries(shape, &dkdv, bounds, config.dkdv_grid.block_q);
        windows[1] = Windows::new(own, queries);
    }
    Ok(windows)
}

/// The same of the kernel that appends to a cache.
pub(crate) fn of_append(problem: &Resolved, work: &Work, bounds: &Bounds) -> Result<Windows> {
    let [batch, heads, rows, row] = problem.k.indexing.dims;
    let rows = batch * heads * rows;
    // Kernels number them by their elements, which 32 bits have to count.
    if !needs_windows(work, bounds)? || rows.saturating_mul(row) > u32::MAX as usize {
        return Ok(Windows::default());
    }
    let window = |rows| Window::Cache { rows };
    let looped = of_rows(rows, 1, 0, &[work], bounds, window).into_iter().map(window).collect();
    Ok(Windows::new(Vec::new(), looped))
}

pub(crate) type Work = (Grid, Vec<Tensor>);

fn needs_windows((grid, reached): &Work, bounds: &Bounds) -> Result<bool> {
    Ok(cut(grid, reached, bounds, 0..grid.workgroups()?).is_err())
}

/// The rows of each window, as many tiles as every workgroup can bind where `before` rows precede them; none where these are all.
fn of_rows(
    rows: usize,
    tile: usize,
    before: usize,
    works: &[&Work],
    bounds: &Bounds,
    window: impl Fn(Range<usize>) -> Window,
) -> Vec<Range<usize>> {
    let tiles = most(rows.div_ceil(tile), |tiles| {
        let window = window(before..tiles.saturating_mul(tile).saturating_add(before));
        works.iter().all(|work| fits(&window, work, bounds))
    });
    let step = tiles.saturating_mul(tile);
    match count(rows, step) {
        2..=MOST_PIECES => steps(rows, step).collect(),
        _ => Vec::new(),
    }
}

/// Windows of the keys that are looped over; of rows or blocks one by one, where keys lie in an order that the device alone knows.
pub(super) fn of_keys(shape: &Shape, work: &Work, bounds: &Bounds, tile: usize) -> Vec<Window> {
    let ([_, rows], longest) = (shape.kv_rows(), shape.seq_len_kv);
    let (rows, longest, axis, tile, margin) = match shape.sequences.kv {
        KeySequences::Uniform => (rows, longest, 2, tile, 0),
        KeySequences::Cached { .. } | KeySequences::Packed { .. } => (rows, longest, 2, tile, tile),
        KeySequences::Ring => (rows, longest, 2, 1, 0),
        KeySequences::Paged { block_size, blocks, .. } => {
            (blocks, longest.div_ceil(block_size.max(1)), 0, 1, 0)
        }
    };
    let window = |rows| Window::Keys { rows, axis, longest, margins: [margin; 2] };
    of_rows(rows, tile, margin, &[work], bounds, window).into_iter().map(window).collect()
}

/// Windows of the queries that the workgroups' own blocks are of, where the device alone knows where these lie.
pub(super) fn of_own_queries(
    shape: &Shape,
    works: &[&Work],
    bounds: &Bounds,
    block: usize,
) -> Vec<Window> {
    if shape.sequences.q == QuerySequences::Uniform {
        return Vec::new();
    }
    let ([_, rows], longest) = (shape.q_rows(), shape.seq_len_q);
    let margins = [0, block];
    let window = |rows| Window::Queries { heads: 0..1, rows, group: 1, longest, margins };
    of_rows(rows, block, 0, works, bounds, window).into_iter().map(window).collect()
}

/// The same of keys. In a ring or in a pool the rows of a block needn't lie together.
pub(super) fn of_own_keys(
    shape: &Shape,
    work: &Work,
    bounds: &Bounds,
    block: usize,
) -> Vec<Window> {
    let (KeySequences::Packed { .. } | KeySequences::Cached { .. }) = shape.sequences.kv else {
        return Vec::new();
    };
    let ([_, rows], longest) = (shape.kv_rows(), shape.seq_len_kv);
    let window = |rows| Window::Keys { rows, axis: 2, longest, margins: [0, block] };
    of_rows(rows, block, 0, &[work], bounds, window).into_iter().map(window).collect()
}

/// Windows of the queries that are looped over, the fewest of: some heads of a group with all of their rows; some rows of all of
/// its heads; some rows of one head.
pub(super) fn of_queries(shape: &Shape, work: &Work, bounds: &Bounds, tile: usize) -> Vec<Window> {
    let (group, [_, rows], longest) = (shape.group_size(), shape.q_rows(), shape.seq_len_q);
    let margin = if shape.sequences.q == QuerySequences::Uniform { 0 } else { tile };
    let margins = [margin; 2];
    let window = |heads, rows| Window::Queries { heads, rows, group, longest, margins };
    let heads = most(group, |heads| fits(&window(0..heads, 0..rows), work, bounds));
    let rows_of =
        |heads: usize| of_rows(rows, tile, margin, &[work], bounds, |rows| window(0..heads, rows));
    let all = std::iter::once(0..rows).collect();
    let forms = [(heads, all), (group, rows_of(group)), (1, rows_of(1))];
    let windows_of =
        |(heads, rows): &(usize, Vec<_>)| count(group, *heads).saturating_mul(rows.len());
    let fewest = forms.into_iter().filter(|form| (2..=MOST_PIECES).contains(&windows_of(form)));
    let Some((heads, rows)) = fewest.min_by_key(windows_of) else { return Vec::new() };
    let windows = |heads: Range<usize>| {
        rows.iter().map(move |rows| window(heads.clone(), rows.clone())).collect::<Vec<_>>()
    };
    steps(group, heads).flat_map(windows).collect()
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
    use crate::tensor::sequences::Sequences;
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

    /// Every share can be cut, unless what has no windows is too much.
    fn check((grid, reached): Work, windows: &Windows, bounds: &Bounds) {
        let workgroups = 0..grid.workgroups().unwrap();
        let whole = Share { grid, reached, workgroups, params: Params::default() };
        for Share { grid, reached, workgroups, .. } in shares(whole, windows) {
            if let Err(Error::Limit { what, .. }) = cut(&grid, &reached, bounds, workgroups) {
                let mut first = windows.own.first().into_iter().chain(windows.looped.first());
                let in_windows = first.any(|window| {
                    let is_of = |tensor: &&Tensor| what.starts_with(&format!("{} (", tensor.name));
                    let tensor = reached.iter().find(is_of).unwrap();
                    window.of(tensor).reach != tensor.reach
                });
                assert!(!in_windows, "{what}");
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
                prop_assert!(windows.own.is_empty());
            }
            keys.looped.extend(more_keys.looped);
            let mut next = 0;
            for window in &keys.looped {
                let Window::Keys { rows, axis: 2, margins: [0, 0], .. } = window else { panic!("{window:?}") };
                prop_assert!(rows.start == next % kv && !rows.is_empty());
                next = rows.end;
            }
            prop_assert!(next == 0 || next == kv);
            let (mut next, mut next_head) = (0, 0);
            for window in &queries.looped {
                let Window::Queries { heads, rows, .. } = window else { panic!("{window:?}") };
                prop_assert!(rows.start == next && heads.start == next_head && !heads.is_empty());
                next = rows.end % q;
                next_head = if next == 0 { heads.end } else { heads.start };
            }
            prop_assert!(queries.looped.is_empty() || (next, next_head) == (0, group));
        }

        /// Where sequences begin anywhere, a block is of one window, and that binds all of its rows; so does a window with the rows
        /// of the tiles that it has some rows of.
        #[test]
        fn windows_of_sequences_bind_whole_blocks(
            (batch, kv_heads, group, most_q, most_kv) in (1..3usize, 1..4usize, 1..4usize, 1..300usize, 1..300usize),
            (packed_q, packed_kv, bshd, rows, bytes) in (any::<bool>(), any::<bool>(), any::<bool>(), 300..900usize, 9_000..90_000u64),
        ) {
            let q = if packed_q { QuerySequences::Packed { total: rows } } else { QuerySequences::LeftPadded };
            let cached = KeySequences::Cached { left_padded: true };
            let kv = if packed_kv { KeySequences::Packed { total: rows + 1 } } else { cached };
            let shape = Shape::new(batch, kv_heads * group, most_q, 20).num_kv_heads(kv_heads).seq_len_kv(most_kv);
            let shape = shape.sequences(Sequences { q, kv });
            let layout = if bshd { Layout::Bshd } else { Layout::Bhsd };
            let problem = Resolved::new(Problem::new(shape).layout(layout)).unwrap();
            let bounds = bounds(bytes);
            let of_forward = forward(&problem);
            let windows = super::of_forward(&problem, &of_forward, 1, &bounds).unwrap();
            check(work::forward(&problem, &of_forward, 1), &windows, &bounds);
            let made = BackwardOptions::default().resolve(&problem).unwrap();
            let config = backward(&problem);
            let [dq, dkdv] = of_backward(&problem, &config, &made, &bounds).unwrap();
            for (stage, windows) in [(Stage::Terms, &dq), (Stage::Dq, &dq), (Stage::DkDv, &dkdv)] {
                check(work::backward(&problem, &config, &made, &made, stage), windows, &bounds);
            }
            for (windows, own, looped, [own_rows, looped_rows]) in [
                (windows, of_forward.grid.block_q, of_forward.grid.block_kv, [shape.q_rows(), shape.kv_rows()]),
                (dq, config.dq_grid.block_q, config.dq_grid.block_kv, [shape.q_rows(), shape.kv_rows()]),
                (dkdv, config.dkdv_grid.block_kv, config.dkdv_grid.block_q, [shape.kv_rows(), shape.q_rows()]),
            ] {
                for (windows, rows, before, behind) in
                    [(windows.own, own_rows[1], 0, own), (windows.looped, looped_rows[1], looped - 1, looped)]
                {
                    let of_first_head = |window: &Window| match window {
                        Window::Queries { heads, rows, margins, .. } => (heads.start == 0).then(|| (rows.clone(), *margins)),
                        Window::Keys { rows, margins, .. } => Some((rows.clone(), *margins)),
                        Window::Cache { .. } => None,
                    };
                    let mut next = 0;
                    for (own, margins) in windows.iter().filter_map(of_first_head) {
                        prop_assert!(own.start == next && !own.is_empty());
                        // Windows of some heads have all of their rows.
                        let is_all = own == (0..rows);
                        prop_assert!(is_all || margins[0] >= before && margins[1] + 1 >= behind, "{:?}", margins);
                        next = own.end;
                    }
                    prop_assert!(windows.is_empty() || next == rows);
                }
            }
        }
    }

    #[test]
    fn what_fits_has_no_windows() {
        let problem = Resolved::new(Problem::new(Shape::new(1, 1, 70, 20))).unwrap();
        let config = forward(&problem);
        assert_eq!(of_forward(&problem, &config, 1, &bounds(70 * 80)).unwrap(), Windows::default());
        let windows = of_forward(&problem, &config, 1, &bounds(70 * 80 - 4)).unwrap();
        assert_eq!(windows.windowed(), Windowed { own: false, looped: true });
    }
}
