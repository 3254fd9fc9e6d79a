//! Calls of Linux's driver i915, and those that all GPUs' drivers have.
//!
//! Structures are those of the kernel's interface (include/uapi/drm/drm.h and i915_drm.h), as far as they are read or written.

use std::ffi::{c_char, c_int, c_ulong, c_void};
use std::ptr;
use std::sync::Mutex;

use crate::gpu::GPU;

/// Where calls of the GPU's own driver begin.
const OWN: c_ulong = 0x40;

/// Answers a call, by its number.
///
/// # Safety
/// The argument is what the kernel's interface has for that number.
pub(crate) unsafe fn answer(number: c_ulong, argument: *mut c_void) -> Result<(), c_int> {
    // SAFETY: so below, in each case for the structure of that number.
    unsafe {
        match number {
            VERSION => version(&mut *argument.cast()),
            GET_CAPABILITY => (*argument.cast::<Capability>()).value = 1,
            // A handle that nobody looks at.
            SYNCOBJ_CREATE => *argument.cast::<u32>() = 1,
            SYNCOBJ_QUERY => all_reached(&*argument.cast()),
            // Buffers aren't shared with other processes.
            PRIME_HANDLE_TO_FD => return Err(libc::ENOSYS),
            CLOSE | SYNCOBJ_DESTROY..=SYNCOBJ_TIMELINE_SIGNAL => {}
            OWN.. => return own(number - OWN, argument),
            _ => return unknown("a call of DRM", number),
        }
    }
    Ok(())
}

/// # Safety
/// As [`answer`]'s.
unsafe fn own(number: c_ulong, argument: *mut c_void) -> Result<(), c_int> {
    // SAFETY: so below, in each case for the structure of that number.
    unsafe {
        match number {
            GET_PARAMETER => get_parameter(&*argument.cast())?,
            QUERY => query(&*argument.cast()),
            CREATE | CREATE_EXT => {
                let buffer = &mut *argument.cast::<Create>();
                buffer.handle = create(buffer.size);
            }
            USERPTR => {
                let buffer = &mut *argument.cast::<UserPtr>();
                buffer.handle = create(buffer.size);
            }
            MMAP_OFFSET => {
                let map = &mut *argument.cast::<MmapOffset>();
                map.offset = offset_of(map.handle)?;
            }
            GET_APERTURE => *argument.cast::<[u64; 2]>() = [ADDRESS_SPACE; 2],
            CONTEXT_CREATE => *argument.cast::<u32>() = 1,
            CONTEXT_GET_PARAMETER => {
                let parameter = &mut *argument.cast::<ContextParameter>();
                parameter.value =
                    if parameter.name == ADDRESS_SPACE_SIZE { ADDRESS_SPACE } else { 0 };
            }
            _ if IGNORED.contains(&number) => {}
            _ => return unknown("a call of i915", number),
        }
    }
    Ok(())
}

fn unknown(what: &str, number: impl std::fmt::LowerHex) -> Result<(), c_int> {
    eprintln!("intel-shim: {what} without an answer: {number:#x}");
    Err(libc::EINVAL)
}

// --- of all GPUs

const VERSION: c_ulong = 0x00;
const CLOSE: c_ulong = 0x09;
const GET_CAPABILITY: c_ulong = 0x0c;
const PRIME_HANDLE_TO_FD: c_ulong = 0x2d;
const SYNCOBJ_CREATE: c_ulong = 0xbf;
const SYNCOBJ_DESTROY: c_ulong = 0xc0;
const SYNCOBJ_QUERY: c_ulong = 0xcb;
const SYNCOBJ_TIMELINE_SIGNAL: c_ulong = 0xcd;

#[repr(C)]
struct Capability {
    name: u64,
    value: u64,
}

/// Texts are asked for twice: for their lengths, then with places of that length.
#[repr(C)]
struct Version {
    numbers: [c_int; 3],
    texts: [Text; 3],
}

#[repr(C)]
struct Text {
    length: usize,
    place: *mut c_char,
}

/// # Safety
/// Texts have as much space as they say.
unsafe fn version(version: &mut Version) {
    version.numbers = [1, 6, 0];
    for (text, value) in version.texts.iter_mut().zip(["i915", "0", "0"]) {
        if !text.place.is_null() && text.length >= value.len() {
            // SAFETY: there is space.
            unsafe { ptr::copy_nonoverlapping(value.as_ptr(), text.place.cast(), value.len()) };
        }
        text.length = value.len();
    }
}

/// Which points on their timelines synchronisation objects have reached.
#[repr(C)]
struct Points {
    handles: u64,
    points: u64,
    count: u32,
}

/// # Safety
/// The list has as many entries as it says.
unsafe fn all_reached(query: &Points) {
    for at in 0..query.count as usize {
        // SAFETY: an entry of the list.
        unsafe { *(query.points as *mut u64).add(at) = u64::MAX / 2 };
    }
}

// --- of i915

const GET_PARAMETER: c_ulong = 0x06;
const CREATE: c_ulong = 0x1b;
const GET_APERTURE: c_ulong = 0x23;
const MMAP_OFFSET: c_ulong = 0x24;
const CONTEXT_CREATE: c_ulong = 0x2d;
const USERPTR: c_ulong = 0x33;
const CONTEXT_GET_PARAMETER: c_ulong = 0x34;
const QUERY: c_ulong = 0x39;
const CREATE_EXT: c_ulong = 0x3c;

/// Busy, set domain, set and get tiling, madvise, execute, wait, destroy a context, set and get caching, read a register, reset
/// statistics, set a context's parameter.
const IGNORED: [c_ulong; 13] =
    [0x17, 0x1f, 0x21, 0x22, 0x26, 0x29, 0x2c, 0x2e, 0x2f, 0x30, 0x31, 0x32, 0x35];

#[repr(C)]
struct Parameter {
    name: c_int,
    value: *mut c_int,
}

/// # Safety
/// The value has a place.
unsafe fn get_parameter(parameter: &Parameter) -> Result<(), c_int> {
    const CHIPSET_ID: c_int = 4;
    const ALIASING_PPGTT: c_int = 18;
    const REVISION: c_int = 32;
    const MMAP_GTT_VERSION: c_int = 40;
    const TIMESTAMP_FREQUENCY: c_int = 51;
    const USERPTR_PROBE: c_int = 56;
    const PXP_STATUS: c_int = 58;
    let value = match parameter.name {
        CHIPSET_ID => GPU.pci_id.into(),
        REVISION | USERPTR_PROBE => 0,
        // Of a whole address space per process.
        ALIASING_PPGTT => 3,
        // The first with offsets.
        MMAP_GTT_VERSION => 4,
        TIMESTAMP_FREQUENCY => 19_200_000,
        // No protected content.
        PXP_STATUS => return Err(libc::ENODEV),
        // Whether the kernel has something.
        _ => 1,
    };
    // SAFETY: the caller's place.
    unsafe { *parameter.value = value };
    Ok(())
}

#[repr(C)]
struct Create {
    size: u64,
    handle: u32,
}

#[repr(C)]
struct UserPtr {
    address: u64,
    size: u64,
    flags: u32,
    handle: u32,
}

#[repr(C)]
struct MmapOffset {
    handle: u32,
    pad: u32,
    offset: u64,
}

#[repr(C)]
struct ContextParameter {
    context: u32,
    size: u32,
    name: u64,
    value: u64,
}

/// The parameter of a context that has the size of its address space.
const ADDRESS_SPACE_SIZE: u64 = 3;
const ADDRESS_SPACE: u64 = 1 << 48;

/// Where buffers end in the GPU's file, by their handles, which count from 1. Ranges aren't used again.
static ENDS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// A buffer's handle.
fn create(size: u64) -> u32 {
    const PAGES: u64 = 1 << 16;
    let mut ends = ENDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let end = ends.last().unwrap_or(&0) + size.next_multiple_of(PAGES);
    ends.push(end);
    ends.len() as u32
}

fn offset_of(handle: u32) -> Result<u64, c_int> {
    let ends = ENDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match handle {
        1 => Ok(0),
        _ => ends.get((handle as usize).wrapping_sub(2)).copied().ok_or(libc::ENOENT),
    }
}

#[repr(C)]
struct Query {
    count: u32,
    flags: u32,
    items: *mut Item,
}

#[repr(C)]
struct Item {
    id: u64,
    /// That of the place for the answer; 0 where the length is asked for. Or an error's number.
    length: i32,
    flags: u32,
    place: *mut u8,
}

/// # Safety
/// There are as many items as it says, and their places have their lengths.
unsafe fn query(query: &Query) {
    const TOPOLOGY: u64 = 1;
    const ENGINES: u64 = 2;
    const MEMORY_REGIONS: u64 = 4;
    const GEOMETRY_TOPOLOGY: u64 = 6;
    for at in 0..query.count as usize {
        // SAFETY: an item.
        let item = unsafe { &mut *query.items.add(at) };
        let bytes = match item.id {
            TOPOLOGY | GEOMETRY_TOPOLOGY => topology(GPU.cores),
            ENGINES => engines(),
            MEMORY_REGIONS => memory_regions(),
            // Older kernels have no others, and the driver has tables of its own.
            _ => {
                item.length = -libc::EINVAL;
                continue;
            }
        };
        if item.length as usize >= bytes.len() {
            // SAFETY: there is space.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), item.place, bytes.len()) };
        }
        item.length = bytes.len() as i32;
    }
}

/// One slice with so many subslices of 16 execution units: a bit for each of these.
fn topology(cores: u16) -> Vec<u8> {
    const UNITS: u16 = 16;
    let stride = cores.div_ceil(8);
    let numbers = [0, 1, cores, UNITS, 1, stride, 1 + stride, UNITS / 8];
    let mut bytes: Vec<u8> = numbers.iter().copied().flat_map(u16::to_ne_bytes).collect();
    bytes.push(1);
    let subslices = (1u64 << cores) - 1;
    bytes.extend(&subslices.to_le_bytes()[..stride.into()]);
    bytes.extend(std::iter::repeat_n(0xff, (cores * UNITS / 8).into()));
    bytes
}

/// One engine for all work.
fn engines() -> Vec<u8> {
    const INFO_BYTES: usize = 56;
    let mut bytes = counted(1);
    bytes.extend([0; INFO_BYTES]);
    bytes
}

/// The system's memory and, for GPUs that have it, their own.
fn memory_regions() -> Vec<u8> {
    const INFO_BYTES: usize = 88;
    const SIZE: u64 = 16 << 30;
    let mut bytes = counted(2);
    for class in [0u64, 1] {
        let start = bytes.len();
        bytes.extend([class, SIZE, SIZE].iter().flat_map(|number| number.to_ne_bytes()));
        bytes.resize(start + INFO_BYTES, 0);
    }
    bytes
}

/// The head of a list.
fn counted(count: u32) -> Vec<u8> {
    [count, 0, 0, 0].iter().flat_map(|number| number.to_ne_bytes()).collect()
}
