//! The classes of a mask's tiles, as the forward kernels see them.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::attention::PlanOptions;
use super::choice::Choice;
use super::cut::Grid;
use super::mask_output::MaskOutput;
use super::mask_tables::{MaskTables, WORK_OF_CELL};
use crate::auxiliary::AuxBuffers;
use crate::error::{Error, Result};
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::mask::tile::{TileClass, TileGrid};
use crate::problem::{Problem, Resolved};
use crate::tensor::shape::MAX_SEQ_LEN;

/// The classes of a mask's tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TileClasses {
    /// The tiles' size.
    pub grid: TileGrid,
    /// `[batch|1, num_heads|1, tiles along the queries, tiles along the keys]`
    pub dims: [usize; 4],
    /// The elements.
    pub classes: Vec<TileClass>,
}

/// Writes the classes of a mask's tiles, any number of times.
#[derive(Debug)]
pub struct TilePlan {
    grid: TileGrid,
    output: MaskOutput,
}

/// What can be chosen about a [`TilePlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct TileOptions {
    /// The tiles' size, instead of the forward kernel's own.
    pub grid: Option<TileGrid>,
}

impl TileOptions {
    setters! {
        option grid: TileGrid,
    }
}

impl TilePlan {
    /// Validates and compiles.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`]; and for a grid of size 0.
    pub fn new(kernels: &Kernels, problem: &Problem, options: &TileOptions) -> Result<Self> {
        Self::of(kernels, &Resolved::new(problem.clone())?.mask_alone()?, options)
    }

    /// The plan of a checked problem, which reads no scores: they play no part, so their data isn't asked for.
    pub(crate) fn of(kernels: &Kernels, problem: &Resolved, options: &TileOptions) -> Result<Self> {
        let grid = match options.grid {
            Some(grid) => grid,
            None => Choice::new(kernels, problem, &PlanOptions::default())?.config.grid,
        };
        if [grid.block_q, grid.block_kv].iter().any(|size| !(1..=MAX_SEQ_LEN).contains(size)) {
            let expected = format!("blocks of 1 to {MAX_SEQ_LEN}");
            return Err(Error::operand("grid", expected, format!("{grid:?}")));
        }
        let mask = MaskTables::new(kernels, problem, Some(grid))?;
        let [batch, heads] = mask.layout.broadcast;
        let dims = [
            batch,
            heads,
            problem.shape.seq_len_q.div_ceil(grid.block_q),
            problem.shape.seq_len_kv.div_ceil(grid.block_kv),
        ];
        let key = KernelKey::TileClasses { grid, mask: Arc::clone(&mask.text) };
        let per_workgroup = WORKGROUP_SIZE as usize;
        let [.., rows, tiles] = dims;
        let work = WORK_OF_CELL * per_workgroup as u64;
        let numbered = Grid::items([batch, heads, rows], tiles, per_workgroup, work);
        let params = Params::new(problem, &mask.layout, grid.block_q)?;
        let output = MaskOutput::new(kernels, "tiles", dims, mask, (key, numbered), &params)?;
        Ok(Self { grid, output })
    }

    /// The tiles' size.
    pub const fn grid(&self) -> TileGrid {
        self.grid
    }

    /// `[batch|1, num_heads|1, tiles along the queries, tiles along the keys]`
    pub const fn dims(&self) -> [usize; 4] {
        self.output.dims
    }

    /// Records the writing of the classes to `output`, one u32 each: [`crate::mask::TileClass::from_word`].
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &AuxBuffers<'_>,
        output: BufferSlice<'_>,
    ) -> Result<()> {
        self.output.encode(encoder, data, output, None)
    }

    /// In how many submissions the writing may be: [`TilePlan::encode_submission`].
    pub const fn submissions(&self) -> usize {
        self.output.submissions()
    }

    /// Records one of [`TilePlan::submissions`], for a command buffer of its own: all of them, in order, do what [`TilePlan::encode`]
    /// does. See [`crate::AttentionPlan::encode_submission`].
    ///
    /// # Errors
    /// As [`TilePlan::encode`]; and where there's no such submission.
    pub fn encode_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &AuxBuffers<'_>,
        output: BufferSlice<'_>,
        submission: usize,
    ) -> Result<()> {
        self.output.encode(encoder, data, output, Some(submission))
    }
}
