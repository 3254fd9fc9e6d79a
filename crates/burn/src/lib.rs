#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod attention;
mod autodiff;
mod auxiliary;
mod backend;
mod backward;
mod cache;
mod call;
mod context;
mod device;
mod forward;
#[cfg(feature = "fusion")]
mod fusion;
mod module;
mod options;
mod outputs;
mod recent;
mod score;
mod tensor;

pub use attention::{attention, try_attention};
pub use cache::KvCache;
#[doc(hidden)]
pub use device::plans;
#[cfg(not(target_family = "wasm"))]
pub use device::{init, init_with};
pub use device::{init_async, register};
pub use module::{MhaInput, MhaOutput, MultiHeadAttention, MultiHeadAttentionConfig};
pub use options::Options;

/// What a burn backend implements so that attention can be dispatched to it.
pub mod extension {
    pub use crate::backend::{Attended, AttentionBackend, AttentionKernels, Gradients, Operands};
    pub use crate::call::Call;
}

pub use wgpu_attention::{Error, Result};
/// The crates whose types are part of this one's interface.
pub use {burn, wgpu_attention};
