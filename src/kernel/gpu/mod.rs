//! The families of kernels for GPUs: which problems each serves, and with which tiles.

pub(super) mod decode;
pub(super) mod matrix;
pub(super) mod tiled;
