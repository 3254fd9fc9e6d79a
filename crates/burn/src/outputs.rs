//! Where the library writes.
//!
//! cubecl carves allocations from larger buffers, and wgpu refuses a dispatch that reads a buffer and writes it, whatever the
//! ranges are. Where an output shares its buffer with an input, it is written to a buffer of this crate and copied on the
//! device. Giving every tensor a buffer (`MemoryConfiguration::ExclusivePages`) saves these copies, but cubecl rounds such
//! buffers up to sizes in steps, for all tensors of the program. A copy moves o once, which attention over as few as some dozen keys
//! exceeds.

use wgpu_attention::{Error, Result, wgpu};

use crate::tensor::Bound;

/// The outputs of a call, as they are laid out in the buffer of this crate.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    device: &'a wgpu::Device,
    read: Vec<&'a wgpu::Buffer>,
    bytes: u64,
}

/// An output, and where it is written first: behind so many bytes of the buffer of this crate.
#[derive(Debug)]
pub(crate) struct Output {
    own: Bound,
    staged: Option<u64>,
}

/// The buffer of this crate, if a call needs it.
#[derive(Debug)]
pub(crate) struct Staging(Option<wgpu::Buffer>);

impl<'a> Stage<'a> {
    /// For a call that reads these buffers.
    pub(crate) const fn new(device: &'a wgpu::Device, read: Vec<&'a wgpu::Buffer>) -> Self {
        Self { device, read, bytes: 0 }
    }

    /// Places an output.
    pub(crate) fn output(&mut self, own: Bound) -> Output {
        let staged = self.read.contains(&own.buffer()).then_some(self.bytes);
        if staged.is_some() {
            let alignment = self.device.limits().min_storage_buffer_offset_alignment;
            self.bytes = (self.bytes + own.bytes()).next_multiple_of(u64::from(alignment));
        }
        Output { own, staged }
    }

    /// The buffer, which grows to the largest need. One serves all calls, as they run one after another on the queue.
    ///
    /// # Errors
    /// Where the device's memory is exhausted.
    pub(crate) fn allocate(self, scratch: &mut Option<wgpu::Buffer>) -> Result<Staging> {
        if self.bytes == 0 {
            return Ok(Staging(None));
        }
        if scratch.as_ref().is_none_or(|scratch| scratch.size() < self.bytes) {
            *scratch = Some(buffer(self.device, self.bytes)?);
        }
        Ok(Staging(scratch.clone()))
    }
}

impl Output {
    /// What the library writes.
    pub(crate) fn slice<'a>(&'a self, staging: &'a Staging) -> wgpu::BufferSlice<'a> {
        match (self.staged, &staging.0) {
            (Some(offset), Some(buffer)) => buffer.slice(offset..offset + self.own.bytes()),
            _ => self.own.slice(),
        }
    }

    /// Records the copy to the tensor, where one is needed.
    pub(crate) fn finish(&self, encoder: &mut wgpu::CommandEncoder, staging: &Staging) {
        if let (Some(offset), Some(buffer)) = (self.staged, &staging.0) {
            let (to, at) = (self.own.buffer(), self.own.offset());
            encoder.copy_buffer_to_buffer(buffer, offset, to, at, self.own.bytes());
        }
    }
}

fn buffer(device: &wgpu::Device, size: u64) -> Result<wgpu::Buffer> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("outputs of attention for burn"),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    // A browser answers late; there the device reports it.
    #[cfg(not(target_family = "wasm"))]
    if let Some(error) = burn_cubecl::cubecl::future::block_on(scope.pop()) {
        let message = error.to_string();
        return Err(Error::OutOfMemory { during: "allocating a buffer for outputs", message });
    }
    #[cfg(target_family = "wasm")]
    drop(scope);
    Ok(buffer)
}
