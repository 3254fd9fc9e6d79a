//! What a device keeps between calls: compiled kernels, plans, a buffer for outputs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu_attention::kernel::KernelOptions;
use wgpu_attention::plan::BackwardOptions;
use wgpu_attention::{AttentionPlan, BackwardPlan, Kernels, Problem, Result, Session, wgpu};

use crate::recent::Recent;

/// A device that burn and this crate share.
#[derive(Debug)]
pub(crate) struct Context {
    session: Session,
    work: Mutex<Work>,
}

/// What one call uses at a time. A plan's own buffers (the mask, lse) serve one call after another on the queue; a lock over
/// recording and submitting keeps it so where several threads compute.
#[derive(Debug, Default)]
pub(crate) struct Work {
    forward: Recent<Problem, AttentionPlan>,
    backward: Recent<(Problem, BackwardOptions), BackwardPlan>,
    /// See [`crate::outputs`].
    pub(crate) scratch: Option<wgpu::Buffer>,
}

impl Context {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &KernelOptions) -> Self {
        let session = Session::from_kernels(&Kernels::new(device, options), queue);
        Self { session, work: Mutex::default() }
    }

    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) const fn kernels(&self) -> &Kernels {
        self.session.kernels()
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        self.session.device()
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("attention for burn") };
        self.device().create_command_encoder(&descriptor)
    }

    /// Waits until no other thread records.
    pub(crate) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records and submits the parts of one plan; `last` is recorded behind the last of them.
    pub(crate) fn submit(
        &self,
        submissions: usize,
        record: impl Fn(&mut wgpu::CommandEncoder, usize) -> Result<()>,
        last: impl Fn(&mut wgpu::CommandEncoder),
    ) -> Result<()> {
        for submission in 0..submissions {
            let mut encoder = self.encoder();
            record(&mut encoder, submission)?;
            if submission + 1 == submissions {
                last(&mut encoder);
            }
            self.session.queue().submit([encoder.finish()]);
        }
        Ok(())
    }
}

impl Work {
    pub(crate) fn forward(
        &mut self,
        context: &Context,
        problem: &Problem,
    ) -> Result<Arc<AttentionPlan>> {
        let make = || AttentionPlan::new(context.kernels(), problem, &Default::default());
        self.forward.get_or_make(problem, make, AttentionPlan::scratch_bytes)
    }

    pub(crate) fn backward(
        &mut self,
        context: &Context,
        problem: &Problem,
        options: &BackwardOptions,
    ) -> Result<Arc<BackwardPlan>> {
        let make = || BackwardPlan::new(context.kernels(), problem, options);
        let key = (problem.clone(), *options);
        self.backward.get_or_make(&key, make, BackwardPlan::scratch_bytes)
    }

    /// How many plans there are.
    pub(crate) fn plans(&self) -> usize {
        self.forward.len() + self.backward.len()
    }
}
