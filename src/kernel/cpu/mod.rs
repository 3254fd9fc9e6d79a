//! The families of kernels for CPU adapters, whose subgroups have one fixed size: which problems each serves, and with which
//! tiles.

pub(crate) mod broadcast;
pub(super) mod decode_lanes;
mod lanes;
