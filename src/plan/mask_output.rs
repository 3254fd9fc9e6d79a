//! What the plans share that write something about a mask alone: the mask as a tensor, and the classes of its tiles.

use wgpu::BufferSlice;

use super::buffers::{Operand, check_outputs_apart};
use super::cut::{Axis, Grid, Tensor};
use super::mask_tables::MaskTables;
use super::masked_kernel::MaskedKernel;
use super::pieces::{Pieces, Schedule, Source};
use crate::auxiliary::AuxBuffers;
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::KernelKey;
use crate::kernel::params::Params;
use crate::kernel::pipeline::Kernels;
use crate::tensor::shape::elements;

/// A kernel that writes one word for each element of a tensor, from the mask.
#[derive(Debug)]
pub(super) struct MaskOutput {
    kernel: MaskedKernel,
    /// The tensor's name in errors.
    name: &'static str,
    /// The tensor's sizes.
    pub(super) dims: [usize; 4],
    pieces: Pieces,
    schedule: Schedule,
}

impl MaskOutput {
    pub(super) fn new(
        kernels: &Kernels,
        name: &'static str,
        dims: [usize; 4],
        mask: MaskTables,
        (key, grid): (KernelKey, Grid),
        params: &Params,
    ) -> Result<Self> {
        let output = Tensor::dense(Binding::MaskTensor, name, dims, 4, [Axis::Own; 3]);
        let pieces = Pieces::new(kernels, &grid, &[output], params)?;
        let work = mask.work().chain(pieces.work());
        let schedule = Schedule::new(work, kernels.traits().most_work);
        Ok(Self { kernel: MaskedKernel::new(kernels, mask, [key])?, name, dims, pieces, schedule })
    }

    /// In how many submissions the writing may be.
    pub(super) const fn submissions(&self) -> usize {
        self.schedule.count()
    }

    /// Records the writing, or one submission of it; the caller's buffers are checked first.
    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &AuxBuffers<'_>,
        output: BufferSlice<'_>,
        submission: Option<usize>,
    ) -> Result<()> {
        let steps = match submission {
            Some(submission) => self.schedule.steps(submission)?,
            None => self.schedule.all(),
        };
        let words = elements(self.name, &self.dims)?;
        let output = Operand::new(self.name, output, words);
        let mask = self.kernel.mask.operands(data)?;
        check_outputs_apart(&mask, &[output])?;
        output.check_storage(&self.kernel.kernels)?;
        if words == 0 {
            return Ok(());
        }
        let windows =
            |_, binding| (binding == Binding::MaskTensor).then_some(Source::Window(output));
        self.kernel.record(encoder, self.name, &steps, &[&self.pieces], &mask, windows)
    }
}
