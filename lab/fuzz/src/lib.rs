//! What is fuzzed: each target takes any bytes, and panics where a promise of the crate's is broken.
//!
//! libFuzzer calls them in the programs of `libfuzzer/`, the project's tests on the corpus. They see nothing but the public
//! API.

mod device;
mod mask_shape;
mod mask_text;
mod tensors;
mod wgsl;

pub use mask_shape::mask_shape;
pub use mask_text::mask_text;
pub use tensors::{tensor_headers, tensors};
pub use wgsl::{executed_functions, wgsl};

/// A target's body.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its folder in the corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("mask_text", mask_text),
    ("mask_shape", mask_shape),
    ("tensors", tensors),
    ("tensor_headers", tensor_headers),
    ("wgsl", wgsl),
];

/// A heap that ends the process where the sizes in an input, not its bytes, decide how much is allocated.
pub type Heap = cap::Cap<std::alloc::System>;

/// Far more than any input of some KiB needs.
pub const fn heap() -> Heap {
    cap::Cap::new(std::alloc::System, 512 << 20)
}
