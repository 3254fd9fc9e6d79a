//! What the plans share that write something about a mask alone: the mask as a tensor, and the classes of its tiles.

use wgpu::BufferSlice;

use super::buffers::{MaskBuffers, Operand, check_outputs_apart};
use super::mask_tables::MaskTables;
use super::{Dispatch, begin_pass, bind, params_buffer};
use crate::error::Result;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::shape::elements;

/// A kernel that writes one word for each element of a tensor, from the mask.
#[derive(Debug)]
pub(super) struct MaskOutput {
    kernels: Kernels,
    /// The tensor's name in errors.
    name: &'static str,
    /// The tensor's sizes.
    pub(super) dims: [usize; 4],
    mask: MaskTables,
    dispatch: Dispatch,
    params: wgpu::Buffer,
    empty: wgpu::Buffer,
}

impl MaskOutput {
    pub(super) fn new(
        kernels: &Kernels,
        name: &'static str,
        dims: [usize; 4],
        mask: MaskTables,
        dispatch: Dispatch,
        params: &Params,
    ) -> Result<Self> {
        let device = kernels.device();
        let (params, empty) = crate::device::scoped(device, "allocating a plan", || {
            (params_buffer(device, params), MaskTables::empty_buffer(kernels))
        })?;
        Ok(Self { kernels: kernels.clone(), name, dims, mask, dispatch, params, empty })
    }

    /// Records the writing; the caller's buffers are checked first.
    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &MaskBuffers<'_>,
        output: BufferSlice<'_>,
    ) -> Result<()> {
        let words = elements(self.name, &self.dims)?;
        let output = Operand::new(self.name, output, words);
        let mask = self.mask.operands(data)?;
        check_outputs_apart(&mask, &[output])?;
        let resources = [
            self.params.as_entire_binding(),
            self.mask.buffer.as_entire_binding(),
            output.bind(&self.kernels, &self.empty)?,
        ];
        if words == 0 {
            return Ok(());
        }
        self.mask.encode(encoder, &mask);
        let bind_group = bind(self.kernels.device(), &self.dispatch.pipeline, &resources);
        let mut pass = begin_pass(encoder, self.name);
        self.dispatch.encode(&mut pass, &bind_group);
        Ok(())
    }
}
