//! Kernels: which there are ([`key`]), their tiles by device class ([`tiles`]), their uniform block ([`params`]),
//! their WGSL text ([`source`]) and their pipelines ([`pipeline`]).

pub(crate) mod key;
pub(crate) mod params;
pub(crate) mod pipeline;
pub(crate) mod source;
pub(crate) mod tiles;
