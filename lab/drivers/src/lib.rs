//! Attention runs on a GPU, and most machines that build this project have none. So every tool that runs something first
//! settles on a [`Device`]: the machine's own GPU where wgpu finds one, else a software driver. Drivers are fetched below the
//! target directory, with no change to the system and no root.
//!
//! What the tools share besides is here, too: the [`workspace`] and its cargo, and [`progress`].

mod apt;
mod browser;
mod closure;
mod device;
mod host;
mod icd;
mod mpi;
mod probe;
mod program;
pub mod progress;
mod provision;
mod shims;
mod software;
mod sources;
mod stamp;
pub mod workspace;

pub use browser::Chromium;
pub use device::*;
pub use host::{Older, is_in_path};
pub use mpi::Mpi;
pub use program::{UNAVAILABLE, Unavailable, start};
pub use shims::{GpuDriver, Shims};
