//! Writes what a program prints on standard error in large pieces.
//!
//! Mesa's compiler for NVIDIA's GPUs prints each word of machine code by a call of its own, which takes longer than compiling
//! it. Preloaded, this takes the place of the C library's `write`, and gathers what goes to standard error. The rest is written
//! when the program ends; it is lost where a signal ends it.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "what it replaces is a C function")]

use std::ffi::{c_int, c_void};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pipe holds as much.
const PIECE: usize = 1 << 16;

static GATHERED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = write_gathered;

/// Instead of the C library's function.
///
/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    if fd != libc::STDERR_FILENO {
        // SAFETY: passed on as it came.
        return unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) } as isize;
    }
    let mut gathered = gathered();
    // SAFETY: the caller has so many bytes there.
    gathered.extend_from_slice(unsafe { slice::from_raw_parts(bytes.cast::<u8>(), count) });
    if gathered.len() >= PIECE {
        flush(&mut gathered);
    }
    count as isize
}

extern "C" fn write_gathered() {
    flush(&mut gathered());
}

fn gathered() -> MutexGuard<'static, Vec<u8>> {
    GATHERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nobody is left to be told of an error.
fn flush(gathered: &mut Vec<u8>) {
    let mut rest = &gathered[..];
    while !rest.is_empty() {
        // SAFETY: so many bytes are there.
        let written = unsafe {
            libc::syscall(libc::SYS_write, libc::STDERR_FILENO, rest.as_ptr(), rest.len())
        };
        let Ok(written @ 1..) = usize::try_from(written) else { break };
        rest = &rest[written..];
    }
    gathered.clear();
}
