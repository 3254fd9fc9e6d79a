//! A plan's mask buffer: the slots, the caller's data, and the tables that small kernels make from them on the device.

use std::ops::Range;
use std::sync::Arc;

use super::buffers::Operand;
use super::cut::Grid;
use super::pieces::{Pieces, Share, Source, steps_within};
use super::{begin_pass, bind};
use crate::auxiliary::{AuxBuffers, AuxTensor, TensorSizes};
use crate::error::{Error, Result};
use crate::kernel::binding::Binding;
use crate::kernel::key::KernelKey;
use crate::kernel::limits::{Needs, check_binding_size};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};
use crate::kernel::source::WORKGROUP_SIZE;
use crate::kernel::tiles::tile_map_parts;
use crate::mask::emit::MaskText;
use crate::mask::layout::{BLOCKS_OF_WORKGROUP, MaskLayout, Region, Tiling};
use crate::mask::slots::FAULT_SLOT;
use crate::mask::tile::TileGrid;
use crate::problem::Resolved;

/// What asking a mask about a cell counts as, in multiply-adds.
pub(crate) const WORK_OF_CELL: u64 = 32;

/// The mask buffer of one plan.
#[derive(Debug)]
pub(crate) struct MaskTables {
    pub(crate) text: Arc<MaskText>,
    pub(crate) layout: MaskLayout,
    pub(crate) buffer: wgpu::Buffer,
    /// What fills in the tables, in order.
    makers: Vec<Maker>,
}

/// A kernel that fills in a table.
#[derive(Debug)]
struct Maker {
    pipeline: Arc<Pipeline>,
    pieces: Pieces,
    /// One for each piece.
    bind_groups: Vec<wgpu::BindGroup>,
}

impl MaskTables {
    /// Makes the buffer and the kernels that fill it; with the tile map that kernels over `grid` need.
    pub(crate) fn new(
        kernels: &Kernels,
        problem: &Resolved,
        grid: Option<TileGrid>,
    ) -> Result<Self> {
        Self::of(kernels, problem, grid, false)
    }

    /// The same where the queries are tokens that are appended, so that the caches must have room for them.
    pub(crate) fn of_append(kernels: &Kernels, problem: &Resolved) -> Result<Self> {
        Self::of(kernels, problem, None, true)
    }

    fn of(
        kernels: &Kernels,
        problem: &Resolved,
        grid: Option<TileGrid>,
        appends: bool,
    ) -> Result<Self> {
        for (custom, usage) in problem.customs() {
            kernels.check_custom(custom, &usage)?;
        }
        let layout = layout(kernels, problem, grid)?;
        let text = Arc::new(text(problem, &layout));
        let bytes = layout.words as u64 * 4;
        // Whichever tile it is about, a mask may read any of its data, so that this isn't bound in pieces.
        let limits = &kernels.traits().limits;
        let map = 4 * layout.tile_map_words() as u64;
        let instead = "broadcast what is the same for all heads or queries, split the batch, or use a device that binds more";
        check_binding_size(limits, "the mask's data", bytes - map, instead)?;
        let instead = "a mask without `dense` and user-defined functions needs none so large; or split the batch, or use a \
                       device that binds more";
        check_binding_size(limits, "the mask's tile map, with its data,", bytes, instead)?;
        let makers = makers(kernels, problem, grid, appends, &text, &layout)?;
        for (key, ..) in &makers {
            Needs::of(key).check(key.entry_point(), &kernels.traits().limits)?;
        }
        let buffer = crate::device::filled_buffer(
            kernels.device(),
            "attention mask",
            bytes,
            bytemuck::cast_slice(&layout.head),
            wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_DST
                | wgpu::BufferUsages::COPY_SRC,
        )?;
        // The makers look at whole rows and tiles of the map; blocks of queries mean nothing to them.
        let params = Params::new(problem, &layout, 1)?;
        let makers = (makers.into_iter())
            .map(|(key, grid, dispatches)| {
                Maker::new(kernels, key, &grid, &dispatches, &params, &buffer)
            })
            .collect::<Result<_>>()?;
        Ok(Self { text, layout, buffer, makers })
    }

    /// How much the pieces of the kernels do that fill in the tables.
    pub(crate) fn work(&self) -> impl Iterator<Item = u64> + '_ {
        self.makers.iter().flat_map(|maker| maker.pieces.work())
    }

    /// How many pieces these kernels have.
    pub(crate) fn steps(&self) -> usize {
        self.makers.iter().map(|maker| maker.pieces.count()).sum()
    }

    /// What the plan holds for the mask, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffer.size() + self.makers.iter().map(|maker| maker.pieces.bytes()).sum::<u64>()
    }

    /// The mask's inputs among the caller's buffers, checked.
    pub(crate) fn operands<'a>(&'a self, data: &AuxBuffers<'a>) -> Result<Vec<Operand<'a>>> {
        (self.layout.inputs.iter())
            .map(|Region { input, name, words, .. }| {
                let operand = Operand::new(name, data.get(input)?, *words);
                operand.check(wgpu::BufferUsages::COPY_SRC, wgpu::COPY_BUFFER_ALIGNMENT)?;
                Ok(operand)
            })
            .collect()
    }

    /// Records the copy of the caller's data.
    pub(crate) fn copy(&self, encoder: &mut wgpu::CommandEncoder, operands: &[Operand<'_>]) {
        for (operand, region) in operands.iter().zip(&self.layout.inputs) {
            if operand.bytes > 0 {
                encoder.copy_buffer_to_buffer(
                    operand.slice.buffer(),
                    operand.slice.offset(),
                    &self.buffer,
                    region.at as u64 * 4,
                    operand.bytes,
                );
            }
        }
    }

    /// Records the making of the tables, some of its [`MaskTables::steps`].
    pub(crate) fn make(&self, encoder: &mut wgpu::CommandEncoder, steps: Range<usize>) {
        if steps.is_empty() {
            return;
        }
        let mut pass = begin_pass(encoder, "mask tables");
        let mut first = 0;
        for maker in &self.makers {
            let end = first + maker.pieces.count();
            for piece in steps_within(&steps, first..end) {
                maker.pieces.encode(piece, &mut pass, &maker.pipeline, &maker.bind_groups[piece]);
            }
            first = end;
        }
    }

    /// Records the copy of what `sequences_check` found to `destination`, of one word.
    pub(crate) fn copy_fault(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        destination: wgpu::BufferSlice<'_>,
    ) -> Result<()> {
        let operand = Operand::new("destination", destination, 1);
        operand.check(wgpu::BufferUsages::COPY_DST, wgpu::COPY_BUFFER_ALIGNMENT)?;
        let (buffer, at) = (destination.buffer(), destination.offset());
        encoder.copy_buffer_to_buffer(&self.buffer, FAULT_SLOT as u64 * 4, buffer, at, 4);
        Ok(())
    }

    /// Records that what `sequences_check` found is forgotten.
    pub(crate) fn clear_fault(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(&self.buffer, FAULT_SLOT as u64 * 4, Some(4));
    }
}

impl Maker {
    fn new(
        kernels: &Kernels,
        key: KernelKey,
        grid: &Grid,
        dispatches: &[Range<usize>],
        params: &Params,
        buffer: &wgpu::Buffer,
    ) -> Result<Self> {
        let bindings = key.bindings();
        let pipeline = kernels.pipeline(key)?;
        let share = |range: &Range<usize>| Share {
            grid: *grid,
            reached: Vec::new(),
            workgroups: range.clone(),
            params: *params,
        };
        let pieces = Pieces::of_shares(kernels, &dispatches.iter().map(share).collect::<Vec<_>>())?;
        let whole = |_: Binding| Ok(Source::Whole(buffer.as_entire_binding()));
        let bind_groups = (0..pieces.count())
            .map(|piece| {
                let resources = pieces.resources(piece, &bindings, buffer, whole)?;
                crate::device::scoped(kernels.device(), "binding a mask's tables", || {
                    bind(kernels.device(), &pipeline, &resources)
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { pipeline, pieces, bind_groups })
    }
}

/// Where everything lies in the mask buffer of a plan whose kernels walk over tiles of `grid`.
pub(crate) fn layout(
    kernels: &Kernels,
    problem: &Resolved,
    grid: Option<TileGrid>,
) -> Result<MaskLayout> {
    let largest_map = kernels.traits().largest_tile_map;
    MaskLayout::new(
        &problem.mask,
        &copied_tensors(problem),
        problem.score_mod.as_ref(),
        problem.drops(),
        &problem.shape,
        grid.map(|grid| Tiling { grid, largest_map }),
    )
}

/// The mask's functions, as kernels have them that go by such a buffer.
pub(crate) fn text(problem: &Resolved, layout: &MaskLayout) -> MaskText {
    MaskText::classed(&problem.mask, problem.shape.sequences.forms(), layout.classed_by)
}

/// A kernel, its workgroups, and which of them are dispatched together, after those before.
type Make = (KernelKey, Grid, Vec<Range<usize>>);

/// The kernels that fill in a mask's tables, in order.
fn makers(
    kernels: &Kernels,
    problem: &Resolved,
    grid: Option<TileGrid>,
    appends: bool,
    text: &Arc<MaskText>,
    layout: &MaskLayout,
) -> Result<Vec<Make>> {
    let [batch, heads] = layout.broadcast;
    let shape = &problem.shape;
    let mut makers = Vec::new();
    let mut make = |key, grid: Grid| {
        let all = 0..grid.workgroups()?;
        makers.push((key, grid, vec![all]));
        Ok::<_, Error>(())
    };
    if !shape.sequences.are_uniform() {
        let key = KernelKey::SequencesCheck { appends, mask: Arc::clone(text) };
        make(key, Grid::blocks([1, 1, 1], 1, false, 0))?;
    }
    let per_workgroup = WORKGROUP_SIZE as usize;
    for (&slot, &[lists, words]) in text.block_bits.iter().zip(&layout.block_bits) {
        let key = KernelKey::BlockBits { slot, mask: Arc::clone(text) };
        let work = per_workgroup as u64 * WORK_OF_CELL;
        make(key, Grid::items([1, 1, lists], words, per_workgroup, work))?;
    }
    for node in 0..text.rows_alone.len() {
        let key = KernelKey::RowsAlone { node, mask: Arc::clone(text) };
        let work = (per_workgroup * shape.seq_len_kv) as u64 * WORK_OF_CELL;
        let sizes = [batch, heads, shape.seq_len_q];
        make(key, Grid::items(sizes, 1, per_workgroup, work))?;
    }
    if let (Some(grid), Some([map_rows, row_words])) = (grid, layout.tile_map) {
        let parts = tile_map_parts(kernels.traits());
        let key = KernelKey::TileMap { grid, parts, mask: Arc::clone(text) };
        let cells = (grid.block_q as u64).saturating_mul(grid.block_kv as u64);
        let work = cells.saturating_mul(16 * WORK_OF_CELL);
        make(key, Grid::items([batch, heads, map_rows], row_words, 1, work))?;
    }
    if !layout.bounds.is_empty() {
        let key = KernelKey::Bounds { mask: Arc::clone(text) };
        let work = BLOCKS_OF_WORKGROUP as u64 * WORK_OF_CELL;
        let grid = Grid::items([1, 1, layout.bounds.iter().sum()], 1, BLOCKS_OF_WORKGROUP, work);
        let mut end = 0;
        let levels = layout.bounds.iter().map(|blocks| {
            let first = end;
            end += blocks / BLOCKS_OF_WORKGROUP;
            first..end
        });
        let levels = levels.collect();
        makers.push((key, grid, levels));
    }
    Ok(makers)
}

/// What is copied to the mask buffer: all that the problem reads but the bias, which is as large as it is.
fn copied_tensors(problem: &Resolved) -> Vec<&TensorSizes> {
    problem.tensors.iter().filter(|tensor| tensor.input != AuxTensor::Bias).collect()
}
