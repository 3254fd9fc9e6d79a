//! What the plans share that write something about a mask alone: the mask as a tensor, and the classes of its tiles.

use std::sync::Arc;

use wgpu::BufferSlice;

use super::buffers::{MaskBuffers, Operand, check_outputs_apart};
use super::cut::{Axis, Grid, Tensor};
use super::mask_tables::MaskTables;
use super::pieces::{Pieces, Schedule, Source, steps_within};
use super::{begin_pass, bind, empty_buffer};
use crate::error::Result;
use crate::kernel::key::{Binding, KernelKey};
use crate::kernel::params::Params;
use crate::kernel::pipeline::{Kernels, Pipeline};
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
    bindings: Vec<Binding>,
    pipeline: Arc<Pipeline>,
    pieces: Pieces,
    schedule: Schedule,
    empty: wgpu::Buffer,
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
        Ok(Self {
            kernels: kernels.clone(),
            name,
            dims,
            bindings: key.bindings(),
            pipeline: kernels.pipeline(key)?,
            pieces,
            schedule,
            mask,
            empty: empty_buffer(kernels)?,
        })
    }

    /// In how many submissions the writing may be.
    pub(super) const fn pieces(&self) -> usize {
        self.schedule.count()
    }

    /// Records the writing, or one piece of it; the caller's buffers are checked first.
    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        data: &MaskBuffers<'_>,
        output: BufferSlice<'_>,
        piece: Option<usize>,
    ) -> Result<()> {
        let steps = match piece {
            Some(piece) => self.schedule.steps(piece)?,
            None => self.schedule.all(),
        };
        let words = elements(self.name, &self.dims)?;
        let output = Operand::new(self.name, output, words);
        let mask = self.mask.operands(data)?;
        check_outputs_apart(&mask, &[output])?;
        output.check_storage(&self.kernels)?;
        if words == 0 {
            return Ok(());
        }
        let own = self.mask.steps()..self.mask.steps() + self.pieces.count();
        let source = |binding| {
            Ok(match binding {
                Binding::MaskTensor => Source::Window(output),
                _ => Source::Whole(self.mask.buffer.as_entire_binding()),
            })
        };
        let bind_groups = steps_within(&steps, own.clone())
            .map(|piece| {
                let resources =
                    self.pieces.resources(piece, &self.bindings, &self.empty, source)?;
                Ok((piece, bind(self.kernels.device(), &self.pipeline, &resources)))
            })
            .collect::<Result<Vec<_>>>()?;
        if steps.start == 0 {
            self.mask.copy(encoder, &mask);
        }
        self.mask.make(encoder, steps_within(&steps, 0..own.start));
        if bind_groups.is_empty() {
            return Ok(());
        }
        let mut pass = begin_pass(encoder, self.name);
        for (piece, bind_group) in &bind_groups {
            self.pieces.encode(*piece, &mut pass, &self.pipeline, bind_group);
        }
        Ok(())
    }
}
