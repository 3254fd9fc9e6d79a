//! Encoders and compute passes: what is recorded for a queue.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use wgpu::custom::*;

use super::buffers::buffer_of;
use super::creation::{Bound, Compiled, SanitizedBindGroup, SanitizedPipeline};
use super::{Shared, lock, unsupported};
use crate::Buffer;

#[derive(Debug)]
pub(super) enum Command {
    Copy { from: Arc<Buffer>, range: Range<u64>, to: Arc<Buffer>, offset: u64 },
    Clear { buffer: Arc<Buffer>, range: Range<u64> },
    Dispatch { pipeline: Arc<Compiled>, bound: Vec<Bound>, immediates: Vec<u8>, count: Count },
}

#[derive(Debug)]
pub(super) enum Count {
    Direct([u32; 3]),
    Indirect(Arc<Buffer>, u64),
}

pub(super) type Commands = Arc<Mutex<Vec<Command>>>;

#[derive(Debug)]
pub(super) struct SanitizedEncoder {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Commands,
}

#[derive(Debug)]
pub(super) struct SanitizedCommands(pub(super) Mutex<Vec<Command>>);

impl CommandBufferInterface for SanitizedCommands {}

#[derive(Debug)]
pub(super) struct SanitizedPass {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Commands,
    pub(super) pipeline: Option<Arc<Compiled>>,
    pub(super) bound: HashMap<u32, Vec<Bound>>,
    pub(super) immediates: Vec<u8>,
}

impl CommandEncoderInterface for SanitizedEncoder {
    fn copy_buffer_to_buffer(
        &self,
        source: &DispatchBuffer,
        source_offset: wgpu::BufferAddress,
        destination: &DispatchBuffer,
        destination_offset: wgpu::BufferAddress,
        copy_size: Option<wgpu::BufferAddress>,
    ) {
        let (from, to) = (buffer_of(source), buffer_of(destination));
        let end = copy_size.map_or(from.len(), |size| source_offset + size);
        let size = end.saturating_sub(source_offset);
        if end > from.len() || destination_offset + size > to.len() {
            return self.shared.error(format!(
                "a copy of bytes {source_offset}..{end} of a buffer of {} to byte {destination_offset} of one of {}",
                from.len(),
                to.len()
            ));
        }
        let command =
            Command::Copy { from, range: source_offset..end, to, offset: destination_offset };
        lock(&self.commands).push(command);
    }

    fn copy_buffer_to_texture(
        &self,
        _: wgpu::TexelCopyBufferInfo<'_>,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn copy_texture_to_buffer(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::TexelCopyBufferInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn copy_texture_to_texture(
        &self,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::TexelCopyTextureInfo<'_>,
        _: wgpu::Extent3d,
    ) {
        unsupported("textures")
    }

    fn begin_compute_pass(&self, _: &wgpu::ComputePassDescriptor<'_>) -> DispatchComputePass {
        DispatchComputePass::custom(SanitizedPass {
            shared: Arc::clone(&self.shared),
            commands: Arc::clone(&self.commands),
            pipeline: None,
            bound: HashMap::new(),
            immediates: Vec::new(),
        })
    }

    fn begin_render_pass(&self, _: &wgpu::RenderPassDescriptor<'_>) -> DispatchRenderPass {
        unsupported("render passes")
    }

    fn finish(&mut self) -> DispatchCommandBuffer {
        let commands = std::mem::take(&mut *lock(&self.commands));
        DispatchCommandBuffer::custom(SanitizedCommands(Mutex::new(commands)))
    }

    fn clear_texture(&self, _: &DispatchTexture, _: &wgpu::ImageSubresourceRange) {
        unsupported("textures")
    }

    fn clear_buffer(
        &self,
        buffer: &DispatchBuffer,
        offset: wgpu::BufferAddress,
        size: Option<wgpu::BufferAddress>,
    ) {
        let buffer = buffer_of(buffer);
        let end = size.map_or(buffer.len(), |size| offset + size).min(buffer.len());
        lock(&self.commands).push(Command::Clear { buffer, range: offset.min(end)..end });
    }

    fn insert_debug_marker(&self, _: &str) {}

    fn push_debug_group(&self, _: &str) {}

    fn pop_debug_group(&self) {}

    fn write_timestamp(&self, _: &DispatchQuerySet, _: u32) {
        unsupported("queries")
    }

    fn resolve_query_set(
        &self,
        _: &DispatchQuerySet,
        _: u32,
        _: u32,
        _: &DispatchBuffer,
        _: wgpu::BufferAddress,
    ) {
        unsupported("queries")
    }

    fn mark_acceleration_structures_built<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::Blas>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        unsupported("acceleration structures")
    }

    fn build_acceleration_structures<'a>(
        &self,
        _: &mut dyn Iterator<Item = &'a wgpu::BlasBuildEntry<'a>>,
        _: &mut dyn Iterator<Item = &'a wgpu::Tlas>,
    ) {
        unsupported("acceleration structures")
    }

    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgpu::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgpu::TextureTransition<&'a DispatchTexture>>,
    ) {
    }
}

impl SanitizedPass {
    fn dispatch(&mut self, count: Count) {
        let Some(pipeline) = self.pipeline.clone() else {
            return self.shared.error("a dispatch without a valid pipeline".into());
        };
        let bound = self.bound.values().flatten().cloned().collect();
        let immediates = self.immediates.clone();
        lock(&self.commands).push(Command::Dispatch { pipeline, bound, immediates, count });
    }
}

impl ComputePassInterface for SanitizedPass {
    fn set_pipeline(&mut self, pipeline: &DispatchComputePipeline) {
        let own = pipeline.as_custom::<SanitizedPipeline>();
        self.pipeline = own.and_then(|pipeline| pipeline.0.clone());
    }

    fn set_bind_group(
        &mut self,
        index: u32,
        bind_group: Option<&DispatchBindGroup>,
        offsets: &[wgpu::DynamicOffset],
    ) {
        let Some(group) = bind_group.and_then(|group| group.as_custom::<SanitizedBindGroup>())
        else {
            self.bound.remove(&index);
            return;
        };
        let mut entries = group.entries.clone();
        for entry in &mut entries {
            entry.group = index;
            if let Some(at) = group.dynamic.iter().position(|binding| *binding == entry.binding) {
                let offset = offsets.get(at).copied().unwrap_or_default();
                entry.range.start += u64::from(offset);
                entry.range.end = (entry.range.end + u64::from(offset)).min(entry.buffer.len());
            }
        }
        self.bound.insert(index, entries);
    }

    fn set_immediates(&mut self, offset: u32, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.immediates.len() < end {
            self.immediates.resize(end, 0);
        }
        self.immediates[offset as usize..end].copy_from_slice(data);
    }

    fn insert_debug_marker(&mut self, _: &str) {}

    fn push_debug_group(&mut self, _: &str) {}

    fn pop_debug_group(&mut self) {}

    fn write_timestamp(&mut self, _: &DispatchQuerySet, _: u32) {
        unsupported("queries")
    }

    fn begin_pipeline_statistics_query(&mut self, _: &DispatchQuerySet, _: u32) {
        unsupported("queries")
    }

    fn end_pipeline_statistics_query(&mut self) {}

    fn dispatch_workgroups(&mut self, x: u32, y: u32, z: u32) {
        self.dispatch(Count::Direct([x, y, z]));
    }

    fn dispatch_workgroups_indirect(
        &mut self,
        indirect_buffer: &DispatchBuffer,
        indirect_offset: wgpu::BufferAddress,
    ) {
        let buffer = buffer_of(indirect_buffer);
        if indirect_offset + 12 > buffer.len() {
            return self.shared.error("an indirect dispatch beyond its buffer".into());
        }
        self.dispatch(Count::Indirect(buffer, indirect_offset));
    }

    fn transition_resources<'a>(
        &mut self,
        _: &mut dyn Iterator<Item = wgpu::BufferTransition<&'a DispatchBuffer>>,
        _: &mut dyn Iterator<Item = wgpu::TextureTransition<&'a DispatchTextureView>>,
    ) {
    }
}

impl Drop for SanitizedPass {
    fn drop(&mut self) {}
}
