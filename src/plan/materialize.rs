//! The mask as a tensor, made on the device.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::cut::Grid;
use super::mask_output::MaskOutput;
use super::mask_tables::{MaskTables, WORK_OF_CELL};
use crate::auxiliary::AuxBuffers;
use crate::error::Result;
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::problem::{Problem, Resolved};
use crate::tensor::shape::Shape;

/// How a mask is written out, in `[batch|1, num_heads|1, seq_len_q, seq_len_kv]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MaskFormat {
    /// u32 `[.., seq_len_q, ceil(seq_len_kv / 32)]`: bit `kv_idx % 32` of word `kv_idx / 32` is set where kept.
    Bits,
    /// f32: 1 where kept, else 0.
    Keep,
    /// f32: 0 where kept, else −∞, to be added to the scores.
    Additive,
}

/// A mask as a tensor on the CPU.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MaskTensor {
    /// `[batch|1, num_heads|1, seq_len_q, seq_len_kv]`
    pub dims: [usize; 4],
    /// The elements.
    pub values: Vec<f32>,
}

/// Writes a mask out, any number of times.
#[derive(Debug)]
pub struct MaskPlan(MaskOutput);

impl MaskPlan {
    /// Validates and compiles. Of the problem, the shape's `head_dim` and the scale play no part.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`].
    pub fn new(kernels: &Kernels, problem: &Problem, format: MaskFormat) -> Result<Self> {
        Self::of(kernels, &Resolved::new(problem.clone())?.mask_alone()?, format)
    }

    /// The plan of a checked problem, which reads no scores: they play no part, so their data isn't asked for.
    pub(crate) fn of(kernels: &Kernels, problem: &Resolved, format: MaskFormat) -> Result<Self> {
        let mask = MaskTables::new(kernels, problem, None)?;
        let [batch, heads] = mask.layout.broadcast;
        let Shape { seq_len_q, seq_len_kv, .. } = problem.shape;
        let key = KernelKey::Materialize { mask: Arc::clone(&mask.text) };
        // An invocation writes the 32 cells of a word.
        let per_workgroup = WORKGROUP_SIZE as usize;
        let work = 32 * WORK_OF_CELL * per_workgroup as u64;
        let words = seq_len_kv.div_ceil(32);
        let grid = Grid::items([batch, heads, seq_len_q], words, per_workgroup, work);
        let params =
            Params { output_mode: format as u32, ..Params::new(problem, &mask.layout, 1)? };
        let row = match format {
            MaskFormat::Bits => seq_len_kv.div_ceil(32),
            MaskFormat::Keep | MaskFormat::Additive => seq_len_kv,
        };
        let dims = [batch, heads, seq_len_q, row];
        Ok(Self(MaskOutput::new(kernels, "mask", dims, mask, (key, grid), &params)?))
    }

    /// The tensor's sizes, `[batch|1, num_heads|1, seq_len_q, seq_len_kv or words]`: 1 where the mask is the same
    /// for all sequences or heads.
    pub const fn dims(&self) -> [usize; 4] {
        self.0.dims
    }

    /// Records the writing of the mask to `output`, which needs 4 bytes for each element of [`MaskPlan::dims`].
    ///
    /// # Errors
    /// [`crate::Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &AuxBuffers<'_>,
        output: BufferSlice<'_>,
    ) -> Result<()> {
        self.0.encode(encoder, data, output, None)
    }

    /// In how many submissions the writing may be: [`MaskPlan::encode_submission`].
    pub const fn submissions(&self) -> usize {
        self.0.submissions()
    }

    /// Records one of [`MaskPlan::submissions`], for a command buffer of its own: all of them, in order, do what [`MaskPlan::encode`]
    /// does. See [`crate::AttentionPlan::encode_submission`].
    ///
    /// # Errors
    /// As [`MaskPlan::encode`]; and where there's no such submission.
    pub fn encode_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &AuxBuffers<'_>,
        output: BufferSlice<'_>,
        submission: usize,
    ) -> Result<()> {
        self.0.encode(encoder, data, output, Some(submission))
    }
}
