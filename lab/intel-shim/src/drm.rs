//! libdrm's functions that list GPUs: there is one, on the PCI bus.

use std::ffi::{CString, c_char, c_int};
use std::ptr::null_mut;
use std::sync::LazyLock;

use crate::gpu::GPU;

/// `drmDevice`.
#[repr(C)]
struct Device {
    /// Paths: of the primary node, of a node without a use, of the render node.
    nodes: *mut *mut c_char,
    /// A bit per node.
    available_nodes: c_int,
    /// 0 for PCI.
    bus: c_int,
    place: *const Place,
    ids: *const Ids,
}

/// `drmPciBusInfo`.
#[repr(C)]
struct Place {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

/// `drmPciDeviceInfo`.
#[repr(C)]
struct Ids {
    vendor: u16,
    device: u16,
    subsystem_vendor: u16,
    subsystem: u16,
    revision: u8,
}

const INTEL: u16 = 0x8086;
const RENDER: usize = 2;

/// The address of the only one, which is never freed.
static DEVICE: LazyLock<usize> = LazyLock::new(|| {
    let path = CString::new(format!("/proc/self/fd/{}", GPU.file)).unwrap_or_default();
    let mut nodes = [null_mut(); 3];
    nodes[RENDER] = path.into_raw();
    let ids = Ids {
        vendor: INTEL,
        device: GPU.pci_id,
        subsystem_vendor: INTEL,
        subsystem: 0,
        revision: 0,
    };
    let device = Device {
        nodes: Box::leak(Box::new(nodes)).as_mut_ptr(),
        available_nodes: 1 << RENDER,
        bus: 0,
        place: Box::leak(Box::new(Place { domain: 0, bus: 0, device: 2, function: 0 })),
        ids: Box::leak(Box::new(ids)),
    };
    Box::into_raw(Box::new(device)) as usize
});

fn device() -> *mut Device {
    *DEVICE as *mut Device
}

/// Lists up to so many GPUs, or counts them where there is no list.
///
/// # Safety
/// As libdrm's.
#[unsafe(no_mangle)]
unsafe extern "C" fn drmGetDevices2(_flags: u32, devices: *mut *mut Device, most: c_int) -> c_int {
    if !devices.is_null() && most > 0 {
        // SAFETY: the list has a place.
        unsafe { *devices = device() };
    }
    1
}

/// The GPU of an open device file.
///
/// # Safety
/// As libdrm's.
#[unsafe(no_mangle)]
unsafe extern "C" fn drmGetDevice2(_fd: c_int, _flags: u32, found: *mut *mut Device) -> c_int {
    // SAFETY: the caller's.
    unsafe { *found = device() };
    0
}

/// Keeps what is never freed.
#[unsafe(no_mangle)]
extern "C" fn drmFreeDevice(_device: *mut *mut Device) {}

/// Keeps what is never freed.
#[unsafe(no_mangle)]
extern "C" fn drmFreeDevices(_devices: *mut *mut Device, _count: c_int) {}
