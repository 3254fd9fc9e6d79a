//! Buffers, what is mapped of them, and what is staged for them.

use std::ops::Range;
use std::sync::Arc;

use wgpu::custom::*;

use super::unsupported;
use crate::Buffer;

#[derive(Debug)]
pub(super) struct SanitizedBuffer {
    pub(super) buffer: Arc<Buffer>,
}

pub(super) fn buffer_of(buffer: &DispatchBuffer) -> Arc<Buffer> {
    match buffer.as_custom::<SanitizedBuffer>() {
        Some(buffer) => Arc::clone(&buffer.buffer),
        None => unsupported("buffers of other devices"),
    }
}

impl BufferInterface for SanitizedBuffer {
    fn map_async(
        &self,
        _: wgpu::MapMode,
        _: Range<wgpu::BufferAddress>,
        callback: BufferMapCallback,
    ) {
        callback(Ok(()));
    }

    fn get_mapped_range(
        &self,
        sub_range: Range<wgpu::BufferAddress>,
    ) -> Result<DispatchBufferMappedRange, wgpu::MapRangeError> {
        Ok(DispatchBufferMappedRange::custom(Mapped {
            bytes: self.buffer.read(sub_range.clone()),
            buffer: Arc::clone(&self.buffer),
            offset: sub_range.start,
            is_written: false,
        }))
    }

    fn unmap(&self) {}

    fn destroy(&self) {}
}

/// A copy of a buffer's bytes, which goes back when it was written.
#[derive(Debug)]
struct Mapped {
    bytes: Vec<u8>,
    buffer: Arc<Buffer>,
    offset: u64,
    is_written: bool,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.is_written {
            self.buffer.write(self.offset, &self.bytes);
        }
    }
}

impl BufferMappedRangeInterface for Mapped {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    #[expect(unsafe_code, reason = "the trait's; nothing unsafe is done")]
    unsafe fn read_slice(&self) -> &[u8] {
        &self.bytes
    }

    #[expect(unsafe_code, reason = "the trait's; nothing unsafe is done")]
    unsafe fn write_slice(&mut self) -> wgpu::WriteOnly<'_, [u8]> {
        self.is_written = true;
        wgpu::WriteOnly::from_mut(&mut self.bytes)
    }
}

#[derive(Debug)]
pub(super) struct Staging(pub(super) Vec<u8>);

impl QueueWriteBufferInterface for Staging {
    fn len(&self) -> usize {
        self.0.len()
    }

    #[expect(unsafe_code, reason = "the trait's; nothing unsafe is done")]
    unsafe fn write_slice(&mut self) -> wgpu::WriteOnly<'_, [u8]> {
        wgpu::WriteOnly::from_mut(&mut self.0)
    }
}
