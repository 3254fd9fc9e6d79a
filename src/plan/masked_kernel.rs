//! What the plans share that run a kernel or two over a mask, to look at: the scores, the mask, its tiles.

use std::ops::Range;
use std::sync::Arc;

use super::buffers::Operand;
use super::mask_tables::MaskTables;
use super::pieces::{Pieces, Source, steps_within};
use super::{begin_pass, bind, empty_buffer};
use crate::error::Result;
use crate::kernel::binding::Binding;
use crate::kernel::key::KernelKey;
use crate::kernel::pipeline::{Kernels, Pipeline};

/// Kernels that run one after the other, and their mask with the tables that are made before.
#[derive(Debug)]
pub(super) struct MaskedKernel {
    pub(super) kernels: Kernels,
    pub(super) mask: MaskTables,
    /// To bind where a tensor has no elements.
    pub(super) empty: wgpu::Buffer,
    /// What each kernel binds, and its pipeline.
    stages: Vec<(Vec<Binding>, Arc<Pipeline>)>,
}

impl MaskedKernel {
    pub(super) fn new(
        kernels: &Kernels,
        mask: MaskTables,
        keys: impl IntoIterator<Item = KernelKey>,
    ) -> Result<Self> {
        let stages = keys.into_iter().map(|key| Ok((key.bindings(), kernels.pipeline(key)?)));
        Ok(Self {
            kernels: kernels.clone(),
            mask,
            empty: empty_buffer(kernels)?,
            stages: stages.collect::<Result<_>>()?,
        })
    }

    /// Records those of the steps (the mask's tables, then the pieces of each kernel) that lie in `steps`. `windows` has the
    /// tensors of each kernel; all else that the kernels bind is the mask's buffer. Nothing is recorded where it fails.
    pub(super) fn record<'a>(
        &'a self,
        encoder: &mut wgpu::CommandEncoder,
        name: &str,
        steps: &Range<usize>,
        stages: &[&'a Pieces],
        mask_inputs: &[Operand<'_>],
        windows: impl Fn(usize, Binding) -> Option<Source<'a>>,
    ) -> Result<()> {
        let tables = 0..self.mask.steps();
        let mut dispatches = Vec::new();
        let mut start = tables.end;
        for (stage, (&pieces, (bindings, pipeline))) in stages.iter().zip(&self.stages).enumerate()
        {
            let source = |binding| {
                let mask = || Source::Whole(self.mask.buffer.as_entire_binding());
                Ok(windows(stage, binding).unwrap_or_else(mask))
            };
            let own = start..start + pieces.count();
            start = own.end;
            for piece in steps_within(steps, own) {
                let resources = pieces.resources(piece, bindings, &self.empty, source)?;
                let bind_group = bind(self.kernels.device(), pipeline, &resources);
                dispatches.push((pieces, piece, pipeline, bind_group));
            }
        }
        if steps.start == 0 {
            self.mask.copy(encoder, mask_inputs);
        }
        self.mask.make(encoder, steps_within(steps, tables));
        if dispatches.is_empty() {
            return Ok(());
        }
        let mut pass = begin_pass(encoder, name);
        for (pieces, piece, pipeline, bind_group) in &dispatches {
            pieces.encode(*piece, &mut pass, pipeline, bind_group);
        }
        Ok(())
    }
}
