//! Masked flash attention as WGSL compute shaders, on any GPU that wgpu reaches.
//!
//! - A [`Problem`] says what is to be computed: a [`Shape`], a [`Mask`], a scale, a [`Score`], types and strides.
//! - [`Attention`] computes it from slices and reads the result back.
//! - [`AttentionPlan`] encodes it into the command encoder of a wgpu application; [`InspectPlan`] writes scores and
//!   weights, [`MaskPlan`] the mask as a tensor, [`TilePlan`] which tiles are skipped. [`Kernels`] holds their pipelines.
//! - [`mod@reference`] computes the same in f64 on the CPU.
//!
//! ```no_run
//! use wgpu_attention::{Attention, Inputs, Mask, Outputs, Problem, Shape};
//! let attention = Attention::open_blocking(&Default::default())?;
//! let problem = Problem::new(Shape::new(1, 2, 3, 4)).mask(Mask::causal());
//! let (q, k, v) = ([0.5; 24], [1.0; 24], [2.0; 24]);
//! let result = attention.run_blocking(&problem, &Inputs::new(&q, &k, &v), &Outputs::default())?;
//! assert_eq!(result.o, [2.0; 24]);
//! # Ok::<(), wgpu_attention::Error>(())
//! ```
//!
//! In a browser (`wasm32-unknown-unknown`) nothing may block: the calls whose names end in `_blocking` aren't there, their
//! futures are. A device answers late there, so that what it objects to comes back from [`Kernels::settle`] and from the
//! calls that read results back, not from those that make plans.
//!
//! Features, all off by default: `files` reads and writes safetensors, `pictures` draws heatmaps, `onnx` is ONNX's operator
//! `Attention`, `measure` times kernels and devices, `cli` is the command line; the last two aren't for browsers. How it works
//! is told in `docs/ARCHITECTURE.md`.

#[cfg(test)]
mod architecture;
mod attention;
mod auxiliary;
mod cache;
mod custom;
mod device;
mod dtype;
mod error;
#[cfg(feature = "files")]
pub mod files;
mod gradient_check;
mod kernel;
mod mask;
#[cfg(feature = "measure")]
pub mod measure;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "pictures")]
pub mod picture;
mod plan;
mod problem;
mod profile;
mod readback;
pub mod reference;
mod score;
mod sequences;
mod shape;

pub use attention::{Attention, Gradients, MaskTensor, Output, Outputs, TileClasses};
pub use auxiliary::{DataShape, MaskBuffers, MaskData, MaskInput};
pub use cache::KvCache;
pub use cache::append::{AppendBuffers, AppendPlan, NewTokens};
pub use cache::rotary::Rotary;
pub use cache::shape::{CacheForm, CacheShape};
pub use custom::{Custom, CustomType};
pub use device::{DeviceChoice, adapters};
pub use dtype::{Dtype, Dtypes, GradientDtypes};
pub use error::{Error, ParseMaskError, Result};
pub use gradient_check::{GradientCell, GradientCheck, GradientReport};
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use kernel::catalog::{KernelText, kernel_texts};
pub use kernel::key::{BackwardKernel, ForwardKernel, Pairing};
pub use kernel::pipeline::{KernelOptions, Kernels};
pub use mask::compositions;
#[doc(hidden)]
pub use mask::leaf::Random;
pub use mask::tile::{TileClass, TileGrid};
pub use mask::{Evaluator, Leaf, Mask, MaskLeaf, MaskSample};
pub use plan::attention::{AttentionBuffers, AttentionPlan};
pub use plan::backward::{BackwardBuffers, BackwardOptions, BackwardPlan};
pub use plan::inspect::{InspectBuffers, InspectPlan, ScoreTensor};
pub use plan::materialize::{MaskFormat, MaskPlan};
pub use plan::merge::{MergePlan, PartSlices};
pub use plan::tiles::TilePlan;
pub use problem::{Inputs, OutputGradients, Problem};
pub use profile::Profile;
pub use score::Score;
pub use sequences::{KeySequences, QuerySequences, Sequences};
pub use shape::{Layout, MAX_HEAD_DIM, MAX_SEQ_LEN, Shape, Strides};

/// The code of the pages that readers copy from.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/pytorch.md")]
    struct PyTorch;
}
