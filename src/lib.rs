//! Masked flash attention as WGSL compute shaders, on any GPU that wgpu reaches.
//!
//! - A [`Problem`] says what is to be computed: a [`Shape`], a [`Mask`], a scale, a [`ScoreModifiers`], types and strides.
//! - [`Session`] computes it from slices and reads the result back.
//! - [`AttentionPlan`] encodes it into the command encoder of a wgpu application, [`BackwardPlan`] its gradients; other
//!   plans ([`plan`]) write scores, weights and masks. [`Kernels`] holds their pipelines.
//! - [`mod@reference`] computes the same in f64 on the CPU.
//!
//! ```no_run
//! use wgpu_attention::{Session, Inputs, Mask, RunOptions, Problem, Shape};
//! let attention = Session::open_blocking(&Default::default())?;
//! let problem = Problem::new(Shape::new(1, 2, 3, 4)).mask(Mask::causal());
//! let (q, k, v) = ([0.5; 24], [1.0; 24], [2.0; 24]);
//! let result = attention.run_blocking(&problem, &Inputs::new(&q, &k, &v), &RunOptions::default())?;
//! assert_eq!(result.o, [2.0; 24]);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```
//!
//! In a browser (`wasm32-unknown-unknown`) nothing may block: the calls whose names end in `_blocking` aren't there, their
//! futures are. A device answers late there, so that what it objects to comes back from [`Kernels::settle`] and from the
//! calls that read results back, not from those that make plans.
//!
//! The guide goes from a mask to attention, into applications, caches and training: [`_guide`].
//!
//! # How things are made
//! Everything is made from what it works with, what it is for, and its options: `AttentionPlan::new(&kernels, &problem,
//! &options)`. Options have a `Default`, so that `&Default::default()` is an argument for all of them.
//!
//! Options, shapes and problems are changed by setters, one rule for all types: a setter is named after its field, consumes the
//! value and returns it changed. The setter of an optional field takes a value or an `Option`. A getter that would have the
//! same name begins with `get_`. Types whose fields may become more are `#[non_exhaustive]`: `Default` or `new` makes them.
//! Structs of buffers are written out instead, field by field, so that none is forgotten or mistaken for another.
//!
//! ```
//! use wgpu_attention::tensor::{Dtype, Dtypes};
//! use wgpu_attention::{Layout, Mask, Problem, ScoreModifiers, Shape};
//! let shape = Shape::new(2, 8, 1, 64).num_kv_heads(2).seq_len_kv(4096);
//! let problem = Problem::new(shape)
//!     .mask(Mask::causal())
//!     .score(ScoreModifiers::default().softcap(30.0))
//!     .layout(Layout::Bshd)
//!     .dtypes(Dtypes::all(Dtype::F16).o(Dtype::F32))
//!     .scale(0.2);
//! assert_eq!(problem.get_scale(), 0.2);
//! ```
//!
//! The crate's root has what most programs need; the rest is in modules by topic: [`tensor`], [`mask`], [`auxiliary`] (what masks and
//! scores read), [`wgsl`] (user-defined functions), [`kernel`], [`plan`], [`cache`], [`device`].
//!
//! Features, all off by default: `onnx` is ONNX's operator `Attention`, `profiles` reads and writes what `tune` measured.
//! The package `wgpu-attention-tools` reads and writes safetensors, draws heatmaps, times kernels and devices, and is the
//! command line. How it works is told in `docs/ARCHITECTURE.md`.

// Its macro is for all modules below.
#[macro_use]
mod setters;

#[cfg(test)]
mod architecture;
pub mod auxiliary;
pub mod cache;
mod custom;
pub mod device;
mod error;
mod gradient_check;
pub mod kernel;
pub mod mask;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod plan;
mod problem;
mod profile;
mod readback;
pub mod reference;
mod score;
mod session;
mod suggest;
pub mod tensor;

#[doc(inline)]
pub use cache::KvCache;
#[doc(inline)]
pub use device::{DeviceOptions, required_features, required_limits};
pub use error::{Error, Result};
#[doc(inline)]
pub use kernel::Kernels;
#[doc(inline)]
pub use mask::Mask;
#[doc(inline)]
pub use plan::{AttentionBuffers, AttentionPlan, BackwardPlan};
pub use problem::{Inputs, Problem, Upstream};
pub use score::ScoreModifiers;
pub use session::{Gradients, Output, RunOptions, Session, Uploaded};

#[doc(inline)]
pub use auxiliary::{AuxBuffers, AuxData, AuxTensor};
#[doc(inline)]
pub use tensor::{Dtype, Layout, Shape};

/// User-defined functions in WGSL, for masks and for scores, and the check of a derivative.
pub mod wgsl {
    pub use crate::custom::{WgslBuffer, WgslFunction};
    pub use crate::gradient_check::{GradientCell, GradientCheck, GradientReport};
}

/// The crates whose types are part of this one's interface.
pub use {half, wgpu};

#[doc(hidden)]
pub use suggest::did_you_mean;

/// The guide: pages to read in order, whose code is compiled.
#[cfg(any(doc, doctest))]
pub mod _guide {
    #[doc = include_str!("../docs/guide/from_a_mask_to_attention.md")]
    pub mod a_from_a_mask_to_attention {}

    #[doc = include_str!("../docs/guide/inside_your_application.md")]
    pub mod b_inside_your_application {}

    #[doc = include_str!("../docs/guide/your_own_mask_in_wgsl.md")]
    pub mod c_your_own_mask_in_wgsl {}

    #[doc = include_str!("../docs/guide/generate.md")]
    pub mod d_generate {}

    #[doc = include_str!("../docs/guide/train.md")]
    pub mod e_train {}

    #[doc = include_str!("../docs/guide/cookbook.md")]
    pub mod f_cookbook {}

    #[doc = include_str!("../docs/pytorch.md")]
    pub mod g_coming_from_pytorch {}

    #[doc = include_str!("../docs/guide/engines.md")]
    pub mod h_for_engines {}
}

/// The code of the pages that readers copy from.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn is_shared_between_threads<T: Send + Sync>() {}

    /// Compiles, or doesn't.
    #[test]
    fn what_applications_keep_is_shared_between_threads() {
        is_shared_between_threads::<Session>();
        is_shared_between_threads::<Kernels>();
        is_shared_between_threads::<kernel::KernelOptions>();
        is_shared_between_threads::<kernel::Profile>();
        is_shared_between_threads::<Problem>();
        is_shared_between_threads::<AuxData>();
        is_shared_between_threads::<AttentionPlan>();
        is_shared_between_threads::<BackwardPlan>();
        is_shared_between_threads::<plan::InspectPlan>();
        is_shared_between_threads::<plan::MaskPlan>();
        is_shared_between_threads::<plan::TilePlan>();
        is_shared_between_threads::<plan::BlockIndexPlan>();
        is_shared_between_threads::<plan::MergePlan>();
        is_shared_between_threads::<cache::AppendPlan>();
        is_shared_between_threads::<KvCache>();
        is_shared_between_threads::<AttentionBuffers<'_>>();
        is_shared_between_threads::<plan::BackwardBuffers<'_>>();
        is_shared_between_threads::<Output>();
        is_shared_between_threads::<Gradients>();
        is_shared_between_threads::<Error>();
    }
}
