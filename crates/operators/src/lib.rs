//! Device operators around attention, for this project's examples and models: matrix products with weights as files store
//! them, norms, embeddings, the choice of a token. Attention itself is wgpu-attention's.
//!
//! Activations are f32 [`Rows`]. Weights are a [`Matrix`] in one of the [`Format`]s, decoded where they are read. An operator
//! is a [`Dispatch`] that is made once and recorded any number of times.

mod gpu;
mod matrix;
mod product;
mod rows;
mod token;

pub use gpu::{Dispatch, Gpu, Mailbox, WORKGROUP_SIZE};
pub use matrix::{Format, Matrix};
pub use product::Then;
pub use rows::{Norm, Rows};
pub use token::Picker;
