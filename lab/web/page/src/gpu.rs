//! Buffers and submissions, as an application makes them.

use wgpu::BufferUsages;
use wgpu::util::DeviceExt as _;
use wgpu_attention::Session;

/// A buffer with everything that any use asks for.
pub(crate) fn upload<T: bytemuck::NoUninit>(attention: &Session, values: &[T]) -> wgpu::Buffer {
    attention.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(values),
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
    })
}

/// One for so many f32, which aren't what will be computed.
pub(crate) fn output(attention: &Session, elements: usize) -> wgpu::Buffer {
    upload(attention, &vec![f32::NAN; elements])
}

pub(crate) fn submit<T>(
    attention: &Session,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> T,
) -> T {
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    let value = record(&mut encoder);
    attention.queue().submit([encoder.finish()]);
    value
}
