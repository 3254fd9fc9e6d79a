//! Lets Mesa's Vulkan driver for Intel's GPUs open one that isn't there, and compile for it.
//!
//! Preloaded, it takes the place of five functions that the driver calls: those of libdrm that list GPUs ([`drm`]), and
//! `ioctl`, whose calls to a GPU it answers as Linux's driver i915 would ([`i915`]). The GPU's device file is a file in memory.
//! The driver opens, maps and closes it by the C library's own functions, and its buffers are ranges of it. Work that is
//! submitted is taken for done.
//!
//! `INTEL_SHIM` says which GPU it is: its PCI id and its number of Xe cores (dual subslices), as in `0x56a0,32`.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "what it replaces are C functions")]

mod drm;
mod gpu;
mod i915;

use std::ffi::{c_int, c_ulong, c_void};

/// The type of calls to a GPU, in bits 8 to 15 of a request.
const DRM: c_ulong = b'd' as c_ulong;

/// Instead of the C library's function. Its third argument is variadic there; on the platforms where these drivers run, such a
/// one is passed as any other.
///
/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if (request >> 8) & 0xff != DRM {
        // SAFETY: passed on as it came.
        return unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) } as c_int;
    }
    // SAFETY: the request's number says what the argument points to.
    match unsafe { i915::answer(request & 0xff, argument) } {
        Ok(()) => 0,
        Err(error) => {
            // SAFETY: the C library's own.
            unsafe { *libc::__errno_location() = error };
            -1
        }
    }
}
