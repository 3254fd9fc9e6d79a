//! The queue: what is submitted is executed at once.

use std::sync::Arc;

use wgpu::custom::*;

use super::buffers::{Staging, buffer_of};
use super::recording::{Command, Count, SanitizedCommands};
use super::{DispatchReport, Shared, lock, unsupported};
use crate::{Binding, Options};

#[derive(Debug)]
pub(super) struct SanitizedQueue(pub(super) Arc<Shared>);

impl QueueInterface for SanitizedQueue {
    fn write_buffer(&self, buffer: &DispatchBuffer, offset: wgpu::BufferAddress, data: &[u8]) {
        let buffer = buffer_of(buffer);
        let end = offset + data.len() as u64;
        if end > buffer.len() {
            return self.0.error(format!("bytes {offset}..{end} of a buffer of {}", buffer.len()));
        }
        buffer.write(offset, data);
    }

    fn create_staging_buffer(&self, size: wgpu::BufferSize) -> Option<DispatchQueueWriteBuffer> {
        Some(DispatchQueueWriteBuffer::custom(Staging(vec![0; size.get() as usize])))
    }

    fn validate_write_buffer(
        &self,
        buffer: &DispatchBuffer,
        offset: wgpu::BufferAddress,
        size: wgpu::BufferSize,
    ) -> Option<()> {
        (offset + size.get() <= buffer_of(buffer).len()).then_some(())
    }

    fn write_staging_buffer(
        &self,
        buffer: &DispatchBuffer,
        offset: wgpu::BufferAddress,
        staging_buffer: &DispatchQueueWriteBuffer,
    ) {
        if let Some(staging) = staging_buffer.as_custom::<Staging>() {
            buffer_of(buffer).write(offset, &staging.0);
        }
    }

    fn write_texture(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: &[u8],
        _: wgpu::TexelCopyBufferLayout,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn submit(&self, command_buffers: &mut dyn Iterator<Item = DispatchCommandBuffer>) -> u64 {
        for commands in command_buffers {
            if let Some(commands) = commands.as_custom::<SanitizedCommands>() {
                for command in std::mem::take(&mut *lock(&commands.0)) {
                    self.execute(command);
                }
            }
        }
        0
    }

    fn get_timestamp_period(&self) -> f32 {
        1.0
    }

    fn on_submitted_work_done(&self, callback: BoxSubmittedWorkDoneCallback) {
        callback();
    }

    fn compact_blas(&self, _: &DispatchBlas) -> (Option<u64>, DispatchBlas) {
        unsupported("acceleration structures")
    }

    fn present(&self, _: &DispatchSurfaceOutputDetail) {
        unsupported("surfaces")
    }
}

impl SanitizedQueue {
    fn execute(&self, command: Command) {
        match command {
            Command::Copy { from, range, to, offset } => to.copy_from(offset, &from, range),
            Command::Clear { buffer, range } => {
                let zeros = vec![0; (range.end - range.start) as usize];
                buffer.write(range.start, &zeros);
            }
            Command::Dispatch { pipeline, bound, immediates, count } => {
                let workgroups = match count {
                    Count::Direct(count) => count,
                    Count::Indirect(buffer, offset) => {
                        let word = |axis: u64| buffer.load(offset + 4 * axis, 4);
                        [word(0), word(1), word(2)]
                    }
                };
                let options = &self.0.options;
                let options = Options {
                    order: options.order,
                    zero_workgroup_memory: pipeline.zero_workgroup_memory,
                    uninitialized_variables: options.uninitialized_variables,
                    time_limit: options.time_limit,
                    operation_limit: options.operation_limit,
                    threads: options.threads,
                    ..Options::default()
                };
                let bindings: Vec<_> = (bound.iter())
                    .map(|bound| Binding {
                        group: bound.group,
                        binding: bound.binding,
                        buffer: &bound.buffer,
                        range: bound.range.clone(),
                    })
                    .collect();
                let kernel = &pipeline.kernel;
                match kernel.dispatch_with_immediates(workgroups, &bindings, &immediates, &options)
                {
                    Ok(report) => self.heard(DispatchReport {
                        label: pipeline.label.clone(),
                        workgroups,
                        source: Arc::clone(&pipeline.source),
                        report,
                    }),
                    Err(error) => self.0.error(format!("{}: {error}", pipeline.label)),
                }
            }
        }
    }

    fn heard(&self, dispatch: DispatchReport) {
        if self.0.options.faults_are_errors {
            let faults: Vec<_> = dispatch.report.faults().map(ToString::to_string).collect();
            if !faults.is_empty() {
                self.0.error(format!("{}: {}", dispatch.label, faults.join("\n")));
            }
        }
        match &self.0.options.on_dispatch {
            Some(hear) => hear(&dispatch),
            None => lock(&self.0.reports).push(dispatch),
        }
    }
}
