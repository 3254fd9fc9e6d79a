//! The kernels of a device, what they are made with, and profiles of what is fastest on it.

// Kernels: which there are (`key`), what they are bound to (`binding`), those for GPUs and those for CPU adapters with their tiles (`gpu`, `cpu`), the table
// that chooses among them (`tiles`), their uniform block (`params`),
// their WGSL text (`source`), what they need of a device (`limits`), their pipelines (`pipeline`)
// and these on disk (`store`), SPIR-V where WGSL won't do (`spirv`); all of them in a list, for checks (`catalog`).

pub(crate) mod binding;
#[cfg(any(test, feature = "catalog"))]
pub(crate) mod catalog;
pub(crate) mod cpu;
mod gpu;
pub(crate) mod key;
pub(crate) mod limits;
pub(crate) mod params;
pub(crate) mod pipeline;
pub(crate) mod source;
#[cfg(all(feature = "spirv", not(target_family = "wasm")))]
mod spirv;
pub(crate) mod store;
pub(crate) mod tiles;

#[cfg(feature = "catalog")]
#[doc(hidden)]
pub use catalog::{KernelText, kernel_texts};
pub use key::{BackwardKernel, ForwardKernel};
pub use pipeline::{KernelOptions, Kernels};

pub use crate::profile::Profile;
