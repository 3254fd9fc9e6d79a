//! Masked flash attention as WGSL compute shaders, on any GPU that wgpu reaches.
#[cfg(test)]
mod architecture;
mod attention;
mod custom;
mod device;
mod dtype;
mod error;
#[cfg(feature = "files")]
pub mod files;
mod kernel;
mod mask;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "pictures")]
pub mod picture;
mod plan;
mod problem;
mod readback;
pub mod reference;
mod score;
mod shape;

pub use attention::{Attention, MaskTensor, Output, Outputs, TileClasses};
pub use custom::{Custom, CustomType};
pub use device::{DeviceChoice, adapters};
pub use dtype::{Dtype, Dtypes};
pub use error::{Error, ParseMaskError, Result};
pub use kernel::key::ForwardKernel;
pub use kernel::pipeline::Kernels;
pub use mask::compositions;
pub use mask::data::{DataShape, DenseShape, PerHeadShape};
pub use mask::emit::{TileClass, TileGrid};
pub use mask::{Causal, ColumnRanges, Evaluator, Mask, MaskData, MaskInput, Window};
pub use plan::attention::{AttentionBuffers, AttentionPlan};
pub use plan::buffers::MaskBuffers;
pub use plan::inspect::{InspectBuffers, InspectPlan, ScoreTensor};
pub use plan::materialize::{MaskFormat, MaskPlan};
pub use plan::tiles::TilePlan;
pub use problem::{Inputs, Problem};
pub use score::Score;
pub use shape::{Layout, MAX_HEAD_DIM, MAX_SEQ_LEN, Shape, Strides};
