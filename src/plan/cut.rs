//! How a kernel's work is cut: its workgroups, numbered through, into ranges that reach no more of any tensor than the
//! device binds in one piece, and do no more than a submission may.
//!
//! Kernels number their workgroups by `[batch, heads, blocks of rows]`, and what of a tensor a workgroup reads or writes
//! follows from these: its own rows, all rows of its head, all heads of a group. A range of workgroups so reaches a *window*
//! of each tensor, which is bound instead of the whole. Nothing here needs a device.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::tiles::DeviceTraits;
use crate::tensor::shape::{Indexing, Layout, elements};

/// The most ranges that work is cut into: each has its own uniform block and bind group.
pub(super) const MOST_PIECES: usize = 1 << 16;

/// How a kernel's workgroups are numbered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    /// The rows of each head.
    pub(crate) rows: usize,
    /// The rows of a block; the last one of a head may have fewer.
    pub(crate) block: usize,
    /// Whether a head's last block comes first.
    pub(crate) last_first: bool,
    /// What a block is made of, numbered through, and how many of these a workgroup has.
    pub(crate) items_of_block: usize,
    pub(crate) items_of_workgroup: usize,
    /// The most multiply-adds of a workgroup.
    pub(crate) work: u64,
}

/// Batch indices, heads and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region([Range<usize>; 3]);

impl Grid {
    /// A workgroup for each block of rows.
    pub(crate) const fn blocks(
        [batch, heads, rows]: [usize; 3],
        block: usize,
        last_first: bool,
        work: u64,
    ) -> Self {
        Self {
            batch,
            heads,
            rows,
            block,
            last_first,
            items_of_block: 1,
            items_of_workgroup: 1,
            work,
        }
    }

    /// So many items of each row, and of each workgroup.
    pub(crate) const fn items(
        [batch, heads, rows]: [usize; 3],
        items_of_row: usize,
        items_of_workgroup: usize,
        work: u64,
    ) -> Self {
        Self {
            batch,
            heads,
            rows,
            block: 1,
            last_first: false,
            items_of_block: items_of_row,
            items_of_workgroup,
            work,
        }
    }

    const fn blocks_of_head(&self) -> usize {
        self.rows.div_ceil(self.block)
    }

    /// How many workgroups there are: kernels count them, and their items, in 32 bits.
    pub(crate) fn workgroups(&self) -> Result<usize> {
        let sizes = [self.batch, self.heads, self.blocks_of_head(), self.items_of_block];
        let workgroups = elements("workgroups", &sizes)?.div_ceil(self.items_of_workgroup);
        let items = workgroups.checked_mul(self.items_of_workgroup);
        match items.map(u32::try_from) {
            Some(Ok(_)) => Ok(workgroups),
            _ => Err(Error::operand(
                "the problem",
                format!("at most {} steps, which kernels count in 32 bits", u32::MAX),
                format!("{sizes:?}"),
            )),
        }
    }

    /// The boxes that a range of workgroups consists of.
    fn regions(&self, first: usize, end: usize) -> Vec<Region> {
        let (blocks, items) = (self.blocks_of_head(), self.items_of_block);
        let total = self.batch * self.heads * blocks;
        let place = |block: usize| {
            (block / blocks / self.heads, block / blocks % self.heads, block % blocks)
        };
        let (b0, h0, r0) = place(first * self.items_of_workgroup / items);
        let last = ((end * self.items_of_workgroup - 1) / items).min(total - 1);
        let (b1, h1, r1) = place(last);
        let rows = |blocks_: Range<usize>| {
            let Range { start, end } = match self.last_first {
                true => blocks - blocks_.end..blocks - blocks_.start,
                false => blocks_,
            };
            start * self.block..(end * self.block).min(self.rows)
        };
        let region = |b: Range<usize>, h: Range<usize>, r: Range<usize>| Region([b, h, rows(r)]);
        let regions = if (b0, h0) == (b1, h1) {
            vec![region(b0..b0 + 1, h0..h0 + 1, r0..r1 + 1)]
        } else {
            let mut regions = vec![region(b0..b0 + 1, h0..h0 + 1, r0..blocks)];
            if b0 == b1 {
                regions.push(region(b0..b0 + 1, h0 + 1..h1, 0..blocks));
            } else {
                regions.push(region(b0..b0 + 1, h0 + 1..self.heads, 0..blocks));
                regions.push(region(b0 + 1..b1, 0..self.heads, 0..blocks));
                regions.push(region(b1..b1 + 1, 0..h1, 0..blocks));
            }
            regions.push(region(b1..b1 + 1, h1..h1 + 1, 0..r1 + 1));
            regions
        };
        regions.into_iter().filter(|Region(axes)| !axes.iter().any(Range::is_empty)).collect()
    }

    /// The last workgroup before `end` at which a head begins, where there is one behind `first`.
    fn head_boundary(&self, first: usize, end: usize) -> Option<usize> {
        let items_of_head = self.blocks_of_head() * self.items_of_block;
        let item = end * self.items_of_workgroup / items_of_head * items_of_head;
        Some(item / self.items_of_workgroup).filter(|&boundary| boundary > first)
    }
}

/// What a workgroup reaches of a tensor along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// As it is numbered.
    Own,
    /// All that there is.
    All,
    /// Of query heads, the kv head that so many of them read.
    Shared(usize),
    /// Of kv heads, so many query heads each.
    Group(usize),
    /// As it is numbered, counted from here on.
    From(usize),
    /// Of kv heads of so many query heads each, those from the one to before the other.
    PartOfGroup(usize, usize, usize),
    /// From the one to before the other, whichever workgroup it is.
    Between(usize, usize),
}

impl Axis {
    fn of(self, range: &Range<usize>, dim: usize) -> Range<usize> {
        let (start, end) = match self {
            Self::Own => (range.start, range.end),
            Self::All => (0, dim),
            Self::Shared(group) => (range.start / group, range.end.div_ceil(group)),
            Self::Group(group) => (range.start * group, range.end * group),
            Self::From(first) => {
                (range.start.saturating_sub(first), range.end.saturating_sub(first))
            }
            Self::PartOfGroup(group, first, end) => {
                (range.start * group + first, (range.end.max(1) - 1) * group + end)
            }
            Self::Between(start, end) => (start, end),
        };
        start.min(dim)..end.min(dim)
    }
}

/// What a workgroup reaches of a tensor: batch indices, heads, rows.
pub(crate) type Reach = [Axis; 3];

/// A tensor that a kernel is bound to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensor {
    pub(crate) binding: Binding,
    pub(crate) name: &'static str,
    pub(crate) indexing: Indexing,
    pub(crate) reach: Reach,
}

impl Tensor {
    /// A dense tensor of words.
    pub(crate) fn dense(
        binding: Binding,
        name: &'static str,
        dims: [usize; 4],
        size: usize,
        reach: Reach,
    ) -> Self {
        let strides = Layout::Bhsd.strides(dims);
        Self { binding, name, indexing: Indexing { dims, strides, size, together: 1 }, reach }
    }

    /// What is counted, from the first to behind the last that are reached.
    fn hull(&self, regions: &[Region]) -> Option<Range<usize>> {
        let Indexing { dims: [batch, heads, rows, row], strides, together, .. } = self.indexing;
        let [sb, sh, sr, sd] = strides.to_array();
        let ends = regions.iter().filter_map(|Region([b, h, r])| {
            let b = self.reach[0].of(b, batch);
            let h = self.reach[1].of(h, heads);
            let r = self.reach[2].of(r, rows);
            if b.is_empty() || h.is_empty() || r.is_empty() || row == 0 {
                return None;
            }
            let at = |b: usize, h: usize, r: usize, d: usize| b * sb + h * sh + r * sr + d * sd;
            Some(at(b.start, h.start, r.start, 0)..at(b.end - 1, h.end - 1, r.end - 1, row - 1) + 1)
        });
        let hull = ends.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
        Some(hull.start / together * together..hull.end.next_multiple_of(together))
    }
}

/// What is bound of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) binding: Binding,
    /// The first element.
    pub(crate) base: usize,
    /// From the tensor's start.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// A range of workgroups, and what it reaches of each tensor; nothing of those that aren't there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) workgroups: Range<usize>,
    pub(crate) windows: Vec<Window>,
    pub(crate) work: u64,
}

/// What pieces are to keep within.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// `max_storage_buffer_binding_size`
    pub(crate) binding_bytes: u64,
    /// `min_storage_buffer_offset_alignment`
    pub(crate) alignment: usize,
    /// `max_compute_workgroups_per_dimension`
    pub(crate) workgroups_per_dimension: usize,
    /// The most multiply-adds, where a piece isn't a single workgroup.
    pub(crate) work: u64,
}

impl Bounds {
    /// A device's.
    pub(crate) const fn of(traits: &DeviceTraits) -> Self {
        let limits = &traits.limits;
        Self {
            binding_bytes: limits.max_storage_buffer_binding_size,
            alignment: limits.min_storage_buffer_offset_alignment as usize,
            workgroups_per_dimension: limits.max_compute_workgroups_per_dimension as usize,
            work: traits.most_work,
        }
    }

    /// What these workgroups reach of the tensors, or the first tensor of which it's more than can be bound.
    pub(super) fn windows(
        &self,
        grid: &Grid,
        tensors: &[Tensor],
        range: &Range<usize>,
    ) -> Result<Vec<Window>, (usize, u64)> {
        let regions = grid.regions(range.start, range.end);
        let mut windows = Vec::with_capacity(tensors.len());
        for (index, tensor) in tensors.iter().enumerate() {
            let Some(hull) = tensor.hull(&regions) else { continue };
            // As many as the offset's alignment has bytes, whatever an element's size is: tensors that share
            // their indices so share their base.
            let Indexing { size, together, .. } = tensor.indexing;
            // Both are powers of two.
            let alignment = self.alignment.max(together);
            let base = hull.start / alignment * alignment;
            let bytes = ((hull.end - base) as u64 * size as u64).next_multiple_of(4);
            if bytes > self.binding_bytes || hull.end - base > u32::MAX as usize {
                return Err((index, bytes));
            }
            let offset = base as u64 * size as u64;
            windows.push(Window { binding: tensor.binding, base, offset, bytes });
        }
        Ok(windows)
    }
}

/// Cuts a range of a kernel's workgroups into the fewest pieces that the bounds allow, in the workgroups' order; as far as
/// that's possible, between heads.
///
/// # Errors
/// [`Error::Limit`] where a single workgroup reaches more of a tensor than can be bound.
pub(crate) fn cut(
    grid: &Grid,
    tensors: &[Tensor],
    bounds: &Bounds,
    range: Range<usize>,
) -> Result<Vec<Piece>> {
    let total = range.end;
    let per_dimension = bounds.workgroups_per_dimension;
    let by_work = bounds.work.checked_div(grid.work).unwrap_or(u64::MAX).max(1);
    let most = per_dimension.saturating_mul(per_dimension).max(1);
    let most = most.min(usize::try_from(by_work).unwrap_or(usize::MAX));
    let mut pieces = Vec::new();
    let mut first = range.start;
    while first < total {
        let windows = |end: usize| bounds.windows(grid, tensors, &(first..end));
        let mut end = first.saturating_add(most).min(total);
        if windows(end).is_err() {
            // What a range reaches grows with it.
            let (mut fits, mut fails) = (first, end);
            while fails - fits > 1 {
                let middle = fits + (fails - fits) / 2;
                match windows(middle) {
                    Ok(_) => fits = middle,
                    Err(_) => fails = middle,
                }
            }
            end = fits.max(first + 1);
        }
        if end < total {
            end = grid.head_boundary(first, end).unwrap_or(end);
        }
        let windows =
            windows(end).map_err(|(index, needed)| too_large(&tensors[index], needed, bounds))?;
        if pieces.len() == MOST_PIECES {
            return Err(Error::operand(
                "the problem",
                format!("at most {MOST_PIECES} pieces that the device's limits allow"),
                format!("{first} of {total} workgroups in as many"),
            ));
        }
        let work = grid.work.saturating_mul((end - first) as u64);
        pieces.push(Piece { workgroups: first..end, windows, work });
        first = end;
    }
    Ok(pieces)
}

fn too_large(tensor: &Tensor, needed: u64, bounds: &Bounds) -> Error {
    Error::Limit {
        what: format!("{} (what one workgroup reaches, in bytes)", tensor.name),
        limit: "max_storage_buffer_binding_size",
        needed,
        available: bounds.binding_bytes.min(u64::from(u32::MAX) * tensor.indexing.size as u64),
        instead: "less is reached in the layout [batch, heads, seq, dim], where the rows of a head lie together, in f16, and \
                  with fewer keys or queries in a call; or use a device that binds more",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::dtype::Dtype;

    const BOUNDS: Bounds = Bounds {
        binding_bytes: 4096,
        alignment: 64,
        workgroups_per_dimension: 65535,
        work: u64::MAX,
    };

    fn cut_all(grid: &Grid, tensors: &[Tensor], bounds: &Bounds) -> Result<Vec<Piece>> {
        cut(grid, tensors, bounds, 0..grid.workgroups()?)
    }

    fn strategy() -> impl Strategy<Value = (Grid, Vec<Tensor>, Bounds)> {
        let grid =
            (1..4usize, 1..4usize, 1..40usize, 1..9usize, any::<bool>(), 1..5usize, 1..9usize);
        let bounds = (256..20_000u64, 1..4usize, 1..1000u64);
        let dtype = prop_oneof![Just(Dtype::F16), Just(Dtype::I8), Just(Dtype::I4)];
        (grid, bounds, any::<bool>(), 1..3usize, dtype).prop_map(
            |((batch, heads, rows, block, last_first, items, per), bounds, bshd, group, dtype)| {
                let grid = Grid {
                    batch,
                    heads: heads * group,
                    rows,
                    block,
                    last_first,
                    items_of_block: items,
                    items_of_workgroup: if items == 1 { 1 } else { per },
                    work: 10,
                };
                let layout = if bshd { Layout::Bshd } else { Layout::Bhsd };
                let (q, k) = ([batch, heads * group, rows, 4], [batch, heads, rows + 3, 8]);
                let tensor = |binding, dims, dtype: Dtype, reach| Tensor {
                    binding,
                    name: "x",
                    indexing: Indexing::new(dtype, dims, layout.strides(dims)),
                    reach,
                };
                let tensors = vec![
                    tensor(Binding::Q, q, Dtype::F32, [Axis::Own; 3]),
                    tensor(Binding::K, k, dtype, [Axis::Own, Axis::Shared(group), Axis::All]),
                ];
                let bounds = Bounds {
                    binding_bytes: bounds.0,
                    alignment: 32,
                    workgroups_per_dimension: bounds.1 * 3,
                    work: bounds.2,
                };
                (grid, tensors, bounds)
            },
        )
    }

    proptest! {
        /// Pieces follow each other without a gap, keep within the bounds, and their windows hold every element that any of
        /// their workgroups reaches, worked out one by one.
        #[test]
        fn pieces_cover_what_their_workgroups_reach((grid, tensors, bounds) in strategy()) {
            let Ok(pieces) = cut_all(&grid, &tensors, &bounds) else {
                let single = (0..grid.workgroups().unwrap())
                    .any(|w| bounds.windows(&grid, &tensors, &(w..w + 1)).is_err());
                prop_assert!(single, "refused without a reason");
                return Ok(());
            };
            let mut next = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.workgroups.start, next);
                next = piece.workgroups.end;
                prop_assert!(piece.workgroups.len() <= bounds.workgroups_per_dimension.pow(2));
                prop_assert!(piece.work <= bounds.work || piece.workgroups.len() == 1);
                for workgroup in piece.workgroups.clone() {
                    for item in workgroup * grid.items_of_workgroup..(workgroup + 1) * grid.items_of_workgroup {
                        let block = item / grid.items_of_block;
                        let blocks = grid.rows.div_ceil(grid.block);
                        if block >= grid.batch * grid.heads * blocks {
                            continue;
                        }
                        let (b, h) = (block / blocks / grid.heads, block / blocks % grid.heads);
                        let at = if grid.last_first { blocks - 1 - block % blocks } else { block % blocks };
                        for row in at * grid.block..((at + 1) * grid.block).min(grid.rows) {
                            for tensor in &tensors {
                                let indexing = tensor.indexing;
                                let of_heads = if tensor.binding == Binding::Q { h } else {
                                    h / (grid.heads / indexing.dims[1])
                                };
                                let rows = if tensor.binding == Binding::Q { row..row + 1 } else { 0..indexing.dims[2] };
                                let window = piece.windows.iter().find(|w| w.binding == tensor.binding).unwrap();
                                prop_assert!(window.bytes <= bounds.binding_bytes);
                                prop_assert!(window.offset.is_multiple_of(bounds.alignment as u64));
                                prop_assert_eq!(window.offset, (window.base * indexing.size) as u64);
                                for r in rows {
                                    let Indexing { strides, together, .. } = indexing;
                                    let first = b * strides.batch + of_heads * strides.head + r * strides.seq;
                                    let end = (first + indexing.dims[3]).next_multiple_of(together);
                                    prop_assert!(window.base.is_multiple_of(together) && first >= window.base);
                                    prop_assert!(((end - window.base) * indexing.size) as u64 <= window.bytes);
                                }
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(next, grid.workgroups().unwrap());
        }
    }

    #[test]
    fn what_fits_is_one_piece_from_the_start() {
        let grid = Grid::blocks([2, 2, 8], 4, true, 1);
        let tensor = Tensor::dense(Binding::Q, "q", [2, 2, 8, 4], 4, [Axis::Own; 3]);
        let pieces = cut_all(&grid, &[tensor], &BOUNDS).unwrap();
        assert_eq!(pieces.len(), 1);
        assert_eq!((pieces[0].windows[0].offset, pieces[0].windows[0].bytes), (0, 512));
    }

    #[test]
    fn what_a_single_workgroup_reaches_is_refused_by_name_and_numbers() {
        let grid = Grid::blocks([2, 2, 8], 4, true, 1);
        let tensor =
            Tensor::dense(Binding::K, "k", [2, 2, 300, 4], 4, [Axis::Own, Axis::Own, Axis::All]);
        let text = cut_all(&grid, &[tensor], &BOUNDS).unwrap_err().to_string();
        let fault = "k (what one workgroup reaches, in bytes) needs 4800, but the device's \
                     max_storage_buffer_binding_size is 4096; ";
        let way_out = text.strip_prefix(fault).unwrap_or_else(|| panic!("{text}"));
        assert!(way_out.contains("layout [batch, heads, seq, dim]"), "{way_out}");
    }

    #[test]
    fn cuts_lie_between_heads_where_they_can() {
        let grid = Grid::blocks([1, 8, 24], 4, false, 1);
        let tensor = Tensor::dense(Binding::Q, "q", [1, 8, 24, 16], 4, [Axis::Own; 3]);
        let pieces = cut_all(&grid, &[tensor], &BOUNDS).unwrap();
        let heads: Vec<_> = pieces.iter().map(|piece| piece.workgroups.start / 6).collect();
        assert!(pieces.iter().all(|piece| piece.workgroups.start % 6 == 0), "{pieces:?}");
        assert_eq!(heads, [0, 2, 4, 6]);
    }

    #[test]
    fn what_32_bits_dont_count_is_refused() {
        let tensors = [];
        for grid in [
            Grid::blocks([1 << 20, 1 << 12, 1], 1, false, 0),
            Grid::items([1 << 12, 1 << 12, 1 << 8], 1, 64, 0),
            Grid::items([usize::MAX, 2, 2], 1, 64, 0),
        ] {
            let error = cut_all(&grid, &tensors, &BOUNDS).unwrap_err();
            assert!(matches!(error, Error::Operand { .. }), "{error}");
        }
    }
}
