//! The GPU that isn't there.

use std::ffi::c_int;
use std::sync::LazyLock;

/// What the driver is told of it.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) pci_id: u16,
    pub(crate) cores: u16,
    /// The file that stands for its device file and has its buffers.
    pub(crate) file: c_int,
}

/// As much as the file of buffers may hold; what nobody writes takes no memory.
const FILE_BYTES: i64 = 1 << 40;

pub(crate) static GPU: LazyLock<Gpu> = LazyLock::new(|| {
    let text = std::env::var("INTEL_SHIM").unwrap_or_default();
    let Some((pci_id, cores)) = parse(&text) else {
        eprintln!(
            "intel-shim: INTEL_SHIM is `{text}`, not a PCI id and a number of cores as `0x56a0,32`"
        );
        std::process::abort();
    };
    // SAFETY: the name is a C string.
    let file = unsafe { libc::memfd_create(c"intel-gpu".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: the file is ours.
    if file < 0 || unsafe { libc::ftruncate(file, FILE_BYTES) } != 0 {
        eprintln!("intel-shim: no file in memory: {}", std::io::Error::last_os_error());
        std::process::abort();
    }
    Gpu { pci_id, cores, file }
});

fn parse(text: &str) -> Option<(u16, u16)> {
    let (pci_id, cores) = text.split_once(',')?;
    Some((u16::from_str_radix(pci_id.strip_prefix("0x")?, 16).ok()?, cores.parse().ok()?))
}
