//! Everything that needs a device, in one binary: the kernels against the f64 reference, on every size that is awkward.

mod backward;
mod bad_input;
mod block_index;
mod bounds;
mod cache;
mod custom;
mod decode;
mod dropout;
mod dtypes;
mod edges;
mod faults;
mod fixture;
mod forward;
mod host;
mod hostile;
mod inspect;
mod kept;
mod kernels;
mod leaves;
mod limits;
mod long_rows;
mod masks;
mod matrix;
mod merge;
mod metamorphic;
#[cfg(feature = "onnx")]
mod onnx;
mod open;
mod operands;
mod pytorch;
mod races;
mod random;
mod scores;
mod security;
mod sequences;
mod soak;
mod steps;
mod tolerance;
mod windows;

use fixture::fuses;
