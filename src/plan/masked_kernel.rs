//! What the plans share that run one kernel over a mask, to look at: the scores, the mask, its tiles.

use std::ops::Range;
use std::sync::Arc;

use super::buffers::Operand;
use super::mask_tables::MaskTables;
use super::pieces::{Pieces, Source, steps_within};
use super::{begin_pass, bind, empty_buffer};
use crate::error::Result;
use crate::kernel::key::{Binding, KernelKey};
use crate::kernel::pipeline::{Kernels, Pipeline};

/// A kernel, and its mask with the tables that are made before it runs.
#[derive(Debug)]
pub(super) struct MaskedKernel {
    pub(super) kernels: Kernels,
    pub(super) mask: MaskTables,
    /// To bind where a tensor has no elements.
    pub(super) empty: wgpu::Buffer,
    bindings: Vec<Binding>,
    pipeline: Arc<Pipeline>,
}

impl MaskedKernel {
    pub(super) fn new(kernels: &Kernels, mask: MaskTables, key: KernelKey) -> Result<Self> {
        Ok(Self {
            kernels: kernels.clone(),
            mask,
            empty: empty_buffer(kernels)?,
            bindings: key.bindings(),
            pipeline: kernels.pipeline(key)?,
        })
    }

    /// Records those of the steps (the mask's tables, then the kernel's pieces) that lie in `steps`. `windows` has the
    /// tensors; all else that the kernel binds is the mask's buffer. Nothing is recorded where it fails.
    pub(super) fn record<'a>(
        &'a self,
        encoder: &mut wgpu::CommandEncoder,
        name: &str,
        steps: &Range<usize>,
        pieces: &'a Pieces,
        mask_inputs: &[Operand<'_>],
        windows: impl Fn(Binding) -> Option<Source<'a>>,
    ) -> Result<()> {
        let tables = 0..self.mask.steps();
        let own = tables.end..tables.end + pieces.count();
        let source = |binding| {
            let mask = || Source::Whole(self.mask.buffer.as_entire_binding());
            Ok(windows(binding).unwrap_or_else(mask))
        };
        let bind_groups = steps_within(steps, own)
            .map(|piece| {
                let resources = pieces.resources(piece, &self.bindings, &self.empty, source)?;
                Ok((piece, bind(self.kernels.device(), &self.pipeline, &resources)))
            })
            .collect::<Result<Vec<_>>>()?;
        if steps.start == 0 {
            self.mask.copy(encoder, mask_inputs);
        }
        self.mask.make(encoder, steps_within(steps, tables));
        if bind_groups.is_empty() {
            return Ok(());
        }
        let mut pass = begin_pass(encoder, name);
        for (piece, bind_group) in &bind_groups {
            pieces.encode(*piece, &mut pass, &self.pipeline, bind_group);
        }
        Ok(())
    }
}
