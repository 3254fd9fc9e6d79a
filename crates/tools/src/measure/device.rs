//! What a device says of work, as errors of the library.

use wgpu_attention::{Error, Result, wgpu};

/// Runs `work` and returns what the device objected to while it ran.
pub(super) fn scoped<T>(
    device: &wgpu::Device,
    during: &'static str,
    work: impl FnOnce() -> T,
) -> Result<T> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let scopes = [OutOfMemory, Internal, Validation].map(|filter| device.push_error_scope(filter));
    let value = work();
    let answers = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop()));
    // Exhausted memory makes what follows invalid, so that the outermost scope tells the cause.
    match answers.flatten().last() {
        None => Ok(value),
        Some(wgpu::Error::OutOfMemory { source }) => {
            Err(Error::OutOfMemory { during, message: source.to_string() })
        }
        Some(other) => Err(Error::Device { during, message: other.to_string() }),
    }
}

/// Waits until everything that was submitted is done.
pub(super) fn wait(device: &wgpu::Device, during: &'static str) -> Result<()> {
    let polled = device.poll(wgpu::PollType::wait_indefinitely());
    polled.map(drop).map_err(|error| Error::DeviceLost { during, message: error.to_string() })
}
