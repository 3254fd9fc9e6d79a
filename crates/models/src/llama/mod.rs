//! SmolLM2 and other small models of llama's kind: a decoder that writes on, token by token.
//!
//! Every token looks at itself and what stands before it, whose keys and values stay in a cache. A prompt is one parallel
//! pass; after that each step takes the one token that the step before chose.

mod perplexity;
mod serve;
mod stage;
mod tokens;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use operators::{Gpu, Matrix, Norm};
use wgpu_attention::cache::{CacheShape, Pairing, Rotary};
use wgpu_attention::{Dtype, KvCache};

pub use perplexity::perplexity;
pub use serve::{Request, serve};
pub use stage::{Rows, Stage};
pub use tokens::Tokens;

use crate::gguf::Gguf;

/// The model on a device.
#[derive(Debug)]
pub struct Llama<'g> {
    gpu: &'g Gpu,
    sizes: Sizes,
    /// Of tokens; the same matrix gives the logits.
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Norm,
    /// Of text.
    pub tokens: Tokens,
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    width: usize,
    wide: usize,
    vocabulary: usize,
    context: usize,
    rotary_base: f64,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    feed_forward_norm: Norm,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl<'g> Llama<'g> {
    /// Reads a GGUF file.
    ///
    /// # Errors
    /// Where it can't be read, is of another kind of model, lacks a tensor, or its tokenizer doesn't fit.
    pub fn open(gpu: &'g Gpu, path: &Path) -> Result<Self> {
        let file = Gguf::open(path)?;
        Self::from_file(gpu, &file).with_context(|| path.display().to_string())
    }

    fn from_file(gpu: &'g Gpu, file: &Gguf) -> Result<Self> {
        let architecture = file.text("general.architecture")?;
        ensure!(
            architecture == "llama",
            "a model of the kind {architecture}, where llama is expected"
        );
        let tokens = Tokens::of(file)?;
        let size = |key: &str| file.size(&format!("llama.{key}"));
        let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
        ensure!(width.is_multiple_of(heads), "{heads} heads don't divide a width of {width}");
        let sizes = Sizes {
            layers: size("block_count")?,
            heads,
            kv_heads: size("attention.head_count_kv")?,
            head_dim: width / heads,
            width,
            wide: size("feed_forward_length")?,
            vocabulary: file.dims("token_embd.weight")?[0],
            context: size("context_length")?,
            rotary_base: file.number("llama.rope.freq_base")?,
        };
        ensure!(
            tokens.count() == sizes.vocabulary,
            "a tokenizer of {} tokens doesn't fit a model of {}",
            tokens.count(),
            sizes.vocabulary
        );
        let epsilon = file.number("llama.attention.layer_norm_rms_epsilon")? as f32;
        let norm = |name: &str| {
            Ok::<_, anyhow::Error>(Norm { gain: file.row(gpu, name, width)?, shift: None, epsilon })
        };
        let layer = |layer: usize| -> Result<Layer> {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let matrix = |part: &str, sizes| file.matrix(gpu, &name(part), sizes);
            let kv_width = sizes.kv_heads * sizes.head_dim;
            Ok(Layer {
                attention_norm: norm(&name("attn_norm"))?,
                q: matrix("attn_q", [width, width])?,
                k: matrix("attn_k", [kv_width, width])?,
                v: matrix("attn_v", [kv_width, width])?,
                o: matrix("attn_output", [width, width])?,
                feed_forward_norm: norm(&name("ffn_norm"))?,
                gate: matrix("ffn_gate", [sizes.wide, width])?,
                up: matrix("ffn_up", [sizes.wide, width])?,
                down: matrix("ffn_down", [width, sizes.wide])?,
            })
        };
        Ok(Self {
            gpu,
            sizes,
            embedding: file.matrix(gpu, "token_embd.weight", [sizes.vocabulary, width])?,
            layers: (0..sizes.layers).map(layer).collect::<Result<_>>()?,
            norm: norm("output_norm.weight")?,
            tokens,
        })
    }

    /// The device.
    pub const fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// The most tokens that the model was made for.
    pub const fn context(&self) -> usize {
        self.sizes.context
    }

    /// A cache for `batch` sequences of up to `capacity` tokens.
    pub const fn cache_shape(&self, batch: usize, capacity: usize, dtype: Dtype) -> CacheShape {
        CacheShape::new(batch, self.sizes.kv_heads, capacity, self.sizes.head_dim).dtype(dtype)
    }

    /// An empty cache for each layer.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn caches(&self, shape: &CacheShape) -> Result<Vec<KvCache>> {
        (0..self.sizes.layers).map(|_| Ok(KvCache::new(self.gpu.kernels(), shape)?)).collect()
    }

    /// GGUF's converter has reordered the rows of q and k so that neighbours are pairs.
    fn rotary(&self) -> Rotary {
        Rotary::new(self.sizes.head_dim, self.sizes.rotary_base, Pairing::Interleaved)
    }
}
