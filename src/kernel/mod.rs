//! Kernels: which there are ([`key`]), their tiles by device class ([`tiles`]), their uniform block ([`params`]),
//! their WGSL text ([`source`]), their pipelines ([`pipeline`])
//! and these on disk ([`store`]).

pub(crate) mod key;
pub(crate) mod params;
pub(crate) mod pipeline;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod tiles;
