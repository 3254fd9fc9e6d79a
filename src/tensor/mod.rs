//! Sizes, layouts, types and sequences of tensors.

pub(crate) mod dtype;
pub(crate) mod elements;
mod quantize;
pub(crate) mod sequences;
pub(crate) mod shape;

pub use dtype::{Dtype, Dtypes, GradientDtypes};
pub use elements::{Element, Elements};
pub use sequences::{KeySequences, QuerySequences, Sequences};
pub use shape::{Layout, MAX_HEAD_DIM, MAX_SEQ_LEN, Shape, Strides};
