//! From a device buffer to a `Vec`, in pieces of bounded size.

use std::panic::AssertUnwindSafe;

use futures_intrusive::channel::shared::oneshot_channel;

use crate::device::{scoped, settle};
use crate::error::{Error, Result};

/// The most that is mapped at a time.
const CHUNK_BYTES: u64 = 64 << 20;

/// Reads 32-bit `elements` from the start of `source`, which needs `BufferUsages::COPY_SRC`.
///
/// On native backends this waits for the device on the calling thread; nothing else drives it. In a browser, which drives it
/// by itself, the device's objections to what came before are heard here.
pub(crate) async fn read<T: bytemuck::Pod>(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    source: &wgpu::Buffer,
    elements: usize,
) -> Result<Vec<T>> {
    let bytes = (elements * size_of::<T>()) as u64;
    let mut values = Vec::with_capacity(elements);
    if bytes == 0 {
        return Ok(values);
    }
    let chunk = bytes.min(CHUNK_BYTES);
    let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
    let staging = crate::device::buffer(device, "readback", chunk, usage)?;
    let mut at = 0;
    while at < bytes {
        let length = chunk.min(bytes - at);
        scoped(device, "copying to the readback buffer", || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
                label: Some("readback"),
            });
            encoder.copy_buffer_to_buffer(source, at, &staging, 0, length);
            queue.submit([encoder.finish()]);
        })?;
        map(device, &staging, length).await?;
        let view = staging.get_mapped_range(..length).map_err(|error| failed(&error))?;
        values.extend_from_slice(bytemuck::cast_slice(&view));
        drop(view);
        scoped(device, "unmapping the readback buffer", || staging.unmap())?;
        at += length;
    }
    settle(device).await?;
    Ok(values)
}

async fn map(device: &wgpu::Device, staging: &wgpu::Buffer, length: u64) -> Result<()> {
    let (sender, receiver) = oneshot_channel();
    scoped(device, "mapping the readback buffer", || {
        staging.map_async(wgpu::MapMode::Read, ..length, move |result| {
            // The receiver is gone only if the future was dropped; then nobody waits for the answer.
            let _ = sender.send(result);
        });
    })?;
    settle(device).await?;
    wait(device, "waiting for a readback")?;
    match receiver.receive().await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(failed(&error)),
        None => Err(failed(&"the device dropped the request")),
    }
}

/// Waits until everything that was submitted is done.
pub(crate) fn wait(device: &wgpu::Device, during: &'static str) -> Result<()> {
    // wgpu 30.0.1 panics here where the driver reports that it has lost the device, and holds no lock while it does: the
    // device is marked as lost, and everything else that is asked of it gives errors.
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        device.poll(wgpu::PollType::wait_indefinitely())
    }));
    let message = match polled {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(message) if message.starts_with("Error in Device::poll") => *message,
            // Applications' own callbacks run here, too: their panics are theirs.
            Ok(message) => std::panic::resume_unwind(message),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    };
    Err(Error::DeviceLost { during, message })
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::DeviceLost { during: "reading back", message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the application's own")]
    fn a_panic_of_the_applications_own_goes_on() {
        let (device, queue) = wgpu::Device::noop(&Default::default());
        queue.submit([]);
        queue.on_submitted_work_done(|| panic!("the application's own"));
        let _ = wait(&device, "waiting");
    }
}
