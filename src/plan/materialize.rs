//! The mask as a tensor, made on the device.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{MaskBuffers, Operand, check_outputs_apart};
use super::mask_tables::MaskTables;
use super::{Dispatch, begin_pass, bind, params_buffer};
use crate::error::Result;
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::kernel::source::WORKGROUP_SIZE;
use crate::problem::Problem;
use crate::shape::elements;

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

/// Writes a mask out, any number of times.
#[derive(Debug)]
pub struct MaskPlan {
    kernels: Kernels,
    problem: Problem,
    format: MaskFormat,
    mask: MaskTables,
    dispatch: Dispatch,
    params: wgpu::Buffer,
    empty: wgpu::Buffer,
}

impl MaskPlan {
    /// Validates and compiles. Of the problem, the shape's `head_dim` and the scale play no part.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::new`].
    pub fn new(kernels: &Kernels, problem: &Problem, format: MaskFormat) -> Result<Self> {
        problem.validate()?;
        // The scores play no part, so their data isn't asked for.
        let problem = &problem.mask_alone();
        let mask = MaskTables::new(kernels, problem, None)?;
        let [batch, heads] = mask.layout.broadcast;
        let shape = &problem.shape;
        let pipeline = kernels.pipeline(KernelKey::Materialize { mask: Arc::clone(&mask.text) })?;
        let words =
            elements("mask", &[batch, heads, shape.seq_len_q, shape.seq_len_kv.div_ceil(32)])?;
        let dispatch = Dispatch::new(kernels, pipeline, words.div_ceil(WORKGROUP_SIZE as usize))?;
        let params =
            Params { output_mode: format as u32, ..Params::new(problem, &mask.layout, 1)? };
        let device = kernels.device();
        let (params, empty) = crate::device::scoped(device, "allocating a plan", || {
            (params_buffer(device, &params), MaskTables::empty_buffer(kernels))
        })?;
        Ok(Self {
            kernels: kernels.clone(),
            problem: problem.clone(),
            format,
            mask,
            dispatch,
            params,
            empty,
        })
    }

    /// The tensor's sizes, `[batch|1, num_heads|1, seq_len_q, seq_len_kv or words]`: 1 where the mask is the same
    /// for all sequences or heads.
    pub fn dims(&self) -> [usize; 4] {
        let [batch, heads] = self.mask.layout.broadcast;
        let shape = &self.problem.shape;
        let row = match self.format {
            MaskFormat::Bits => shape.seq_len_kv.div_ceil(32),
            MaskFormat::Keep | MaskFormat::Additive => shape.seq_len_kv,
        };
        [batch, heads, shape.seq_len_q, row]
    }

    /// Records the writing of the mask to `output`, which needs 4 bytes for each element of [`MaskPlan::dims`].
    ///
    /// # Errors
    /// [`crate::Error::Operand`] that names the first buffer that doesn't fit; nothing is recorded then.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &MaskBuffers<'_>,
        output: BufferSlice<'_>,
    ) -> Result<()> {
        let cells = elements("mask", &self.dims())?;
        let output = Operand::new("mask", output, cells);
        let mask = self.mask.operands(data)?;
        check_outputs_apart(&mask, &[output])?;
        let resources = [
            self.params.as_entire_binding(),
            self.mask.buffer.as_entire_binding(),
            output.bind(&self.kernels, &self.empty)?,
        ];
        if cells == 0 {
            return Ok(());
        }
        self.mask.encode(encoder, &mask);
        let bind_group = bind(self.kernels.device(), &self.dispatch.pipeline, &resources);
        let mut pass = begin_pass(encoder, "materialize");
        self.dispatch.encode(&mut pass, &bind_group);
        Ok(())
    }
}
