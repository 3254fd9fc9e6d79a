//! Where q, k and v come from: a layer of a real model, or numbers that look random.

use std::collections::BTreeMap;
use std::rc::Rc;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use wgpu_attention::{Error, Result, Shape};

/// The most tokens of a sequence that the page draws.
const MOST_TOKENS: usize = 128;
/// The most sequences.
const MOST_SEQUENCES: usize = 4;
/// The most heads, and the largest size of one.
const MOST_HEADS: usize = 16;
const MOST_HEAD_DIM: usize = 128;

/// Token 0 of BERT's vocabulary.
pub(crate) const PAD: &str = "[PAD]";

/// A batch of sequences, the shorter ones padded on the right, with what attention reads.
#[derive(Debug, Clone)]
pub(crate) struct Sequences {
    pub(crate) shape: Shape,
    /// `[batch, num_heads, seq_len, head_dim]`, as k and v.
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    /// The tokens of each sequence, padding included.
    pub(crate) tokens: Vec<Vec<String>>,
    /// How many of them aren't padding.
    pub(crate) lengths: Vec<usize>,
}

/// Which sequences the page asks for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Source {
    /// A layer's file, which the page handed over before.
    Model { layer: u32 },
    /// q, k and v from −2 to 2 for these tokens.
    Random { tokens: Vec<Vec<String>>, heads: usize, head_dim: usize, seed: u32 },
}

impl Sequences {
    /// # Errors
    /// [`Error::Operand`] that says what the page draws.
    pub(crate) fn of(source: &Source, layers: &BTreeMap<u32, Rc<Self>>) -> Result<Rc<Self>> {
        match source {
            Source::Model { layer } => layers
                .get(layer)
                .cloned()
                .ok_or_else(|| operand("layer", "one that was loaded", layer)),
            Source::Random { tokens, heads, head_dim, seed } => {
                Self::random(tokens, *heads, *head_dim, *seed).map(Rc::new)
            }
        }
    }

    fn random(texts: &[Vec<String>], heads: usize, head_dim: usize, seed: u32) -> Result<Self> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        for (name, most, found) in [
            ("sequences", MOST_SEQUENCES, texts.len()),
            ("tokens", MOST_TOKENS, longest),
            ("heads", MOST_HEADS, heads),
            ("size of a head", MOST_HEAD_DIM, head_dim),
        ] {
            if found == 0 || found > most {
                return Err(operand(name, format!("from 1 to {most}"), found));
            }
        }
        let shape = Shape::new(texts.len(), heads, longest, head_dim);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.into());
        let mut tensor = || -> Result<Vec<f32>> {
            Ok((0..shape.q_len()?).map(|_| random.random_range(-2.0..2.0)).collect())
        };
        let (q, k, v) = (tensor()?, tensor()?, tensor()?);
        let padded = |text: &Vec<String>| {
            let mut text = text.clone();
            text.resize(longest, PAD.to_owned());
            text
        };
        Ok(Self { shape, q, k, v, tokens: texts.iter().map(padded).collect(), lengths })
    }

    /// A layer's file: `data/README.md` says what it holds.
    ///
    /// # Errors
    /// [`Error::File`] where it isn't such a file.
    pub(crate) fn of_file(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).map_err(|message| Error::File { path: "the layer".into(), message })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let told = |error: safetensors::SafeTensorError| error.to_string();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(told)?;
        let file = SafeTensors::deserialize(bytes).map_err(told)?;
        let floats = |name: &str| -> Result<(Vec<usize>, Vec<f32>), String> {
            let tensor = file.tensor(name).map_err(told)?;
            Ok((tensor.shape().to_vec(), words(&tensor).map(f32::from_bits).collect()))
        };
        let (sizes, q) = floats("q")?;
        let &[batch, heads, seq_len, head_dim] = sizes.as_slice() else {
            return Err(format!("q: expected four sizes, found {sizes:?}"));
        };
        let lengths = file.tensor("key_lengths").map_err(told)?;
        let lengths: Vec<usize> = words(&lengths).map(|word| word as usize).collect();
        let texts = header.metadata().as_ref().and_then(|texts| texts.get("tokens"));
        let texts = texts.ok_or("its metadata have no tokens")?;
        let mut tokens: Vec<Vec<String>> =
            serde_json::from_str(texts).map_err(|error| error.to_string())?;
        for text in &mut tokens {
            text.resize(seq_len, PAD.to_owned());
        }
        if tokens.len() != batch || lengths.len() != batch {
            return Err(format!("expected tokens and lengths of {batch} sequences"));
        }
        let shape = Shape::new(batch, heads, seq_len, head_dim);
        Ok(Self { shape, q, k: floats("k")?.1, v: floats("v")?.1, tokens, lengths })
    }

    /// The last `queries` rows of each head's q.
    pub(crate) fn last_queries(&self, queries: usize) -> Vec<f32> {
        let Shape { seq_len_q, head_dim, .. } = self.shape;
        let skipped = (seq_len_q - queries) * head_dim;
        let heads = self.q.chunks(seq_len_q * head_dim);
        heads.flat_map(|head| head[skipped..].iter().copied()).collect()
    }
}

fn words(tensor: &TensorView<'_>) -> impl Iterator<Item = u32> {
    tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

pub(crate) fn operand(
    name: impl Into<String>,
    expected: impl Into<String>,
    found: impl ToString,
) -> Error {
    Error::Operand { operand: name.into(), expected: expected.into(), found: found.to_string() }
}
