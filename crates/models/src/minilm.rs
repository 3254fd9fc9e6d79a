//! all-MiniLM-L6-v2: a BERT encoder that makes an embedding of each sentence, so that sentences of like meaning point the
//! same way.
//!
//! Every token looks at every token of its own sentence, before and behind it. Sentences of a batch have different lengths:
//! either they are padded to the longest, and the mask keeps padding out, or they lie packed one behind the other, and
//! there is nothing to keep out.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use operators::{Dispatch, Gpu, Matrix, Norm, Rows};
use serde_json::Value;
use tokenizers::Tokenizer;
use wgpu_attention::plan::{InspectBuffers, InspectPlan, ScoreTensor};
use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, AuxTensor, Layout, Mask, Problem, Shape,
};
use wgpu_attention_tools::files::TensorFile;

use crate::layers::{ADD, GELU, Linear, Tensors};

/// The token that fills up sentences.
const PAD: u32 = 0;

/// How the sentences of a batch lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// Padded to the longest, and padding is masked.
    Padded,
    /// Padded, and padding is looked at: wrong, to see what it does.
    PaddingUnmasked,
    /// One behind the other.
    Packed,
}

/// The model on a device.
#[derive(Debug)]
pub struct MiniLm<'g> {
    gpu: &'g Gpu,
    tokenizer: Tokenizer,
    sizes: Config,
    words: Matrix,
    /// With the type of all tokens, 0, added.
    positions: Matrix,
    norm: Norm,
    layers: Vec<Layer>,
}

/// What `config.json` says.
#[derive(Debug, Clone, Copy)]
struct Config {
    layers: usize,
    heads: usize,
    width: usize,
    wide: usize,
    vocabulary: usize,
    most_tokens: usize,
    epsilon: f32,
}

#[derive(Debug)]
struct Layer {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    attention_norm: Norm,
    wide: Linear,
    narrow: Linear,
    feed_forward_norm: Norm,
}

impl<'g> MiniLm<'g> {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of a folder.
    ///
    /// # Errors
    /// Where one of them is missing, is of another model, or lacks a tensor.
    pub fn open(gpu: &'g Gpu, folder: &Path) -> Result<Self> {
        let sizes = Config::open(&folder.join("config.json"))?;
        let path = folder.join("tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(&path)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(anyhow::Error::msg)?;
        let entries = tokenizer.get_vocab_size(true);
        ensure!(
            entries == sizes.vocabulary,
            "{}: a tokenizer of {entries} tokens doesn't fit a model of {}",
            path.display(),
            sizes.vocabulary
        );
        let file = TensorFile::open(folder.join("model.safetensors"))?;
        let tensors = Tensors { gpu, file: &file };
        let Config { width, wide, epsilon, .. } = sizes;
        let mut places =
            tensors.values("embeddings.position_embeddings.weight", &[sizes.most_tokens, width])?;
        let kinds = tensors.values("embeddings.token_type_embeddings.weight", &[2, width])?;
        for place in places.chunks_mut(width) {
            place.iter_mut().zip(&kinds).for_each(|(place, kind)| *place += kind);
        }
        let layer = |layer: usize| -> Result<Layer> {
            let part = |name: &str| format!("encoder.layer.{layer}.{name}");
            let linear = |name: &str, sizes| tensors.linear(&part(name), sizes);
            let norm = |name: &str| tensors.norm(&part(name), width, epsilon);
            Ok(Layer {
                q: linear("attention.self.query", [width, width])?,
                k: linear("attention.self.key", [width, width])?,
                v: linear("attention.self.value", [width, width])?,
                o: linear("attention.output.dense", [width, width])?,
                attention_norm: norm("attention.output.LayerNorm")?,
                wide: linear("intermediate.dense", [wide, width])?,
                narrow: linear("output.dense", [width, wide])?,
                feed_forward_norm: norm("output.LayerNorm")?,
            })
        };
        Ok(Self {
            gpu,
            tokenizer,
            sizes,
            words: tensors
                .matrix("embeddings.word_embeddings.weight", [sizes.vocabulary, width])?,
            positions: Matrix::new(
                gpu,
                "embeddings.position_embeddings.weight",
                operators::Format::F32,
                [sizes.most_tokens, width],
                bytemuck::cast_slice(&places),
            )?,
            norm: tensors.norm("embeddings.LayerNorm", width, epsilon)?,
            layers: (0..sizes.layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// A sentence's tokens, between `[CLS]` and `[SEP]`.
    ///
    /// # Errors
    /// Where there are more of them than the model has positions for.
    pub fn tokens(&self, sentence: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(sentence, true).map_err(anyhow::Error::msg)?;
        let tokens = encoding.get_ids().to_vec();
        ensure!(
            tokens.len() <= self.sizes.most_tokens,
            "a sentence of {} tokens, where the model takes at most {}: {:.40}…",
            tokens.len(),
            self.sizes.most_tokens,
            sentence
        );
        Ok(tokens)
    }

    /// A token as text, for pictures.
    pub fn word(&self, token: u32) -> String {
        self.tokenizer.id_to_token(token).unwrap_or_default()
    }

    /// How many layers there are.
    pub const fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// Everything that a batch of sentences, given as tokens, needs to run.
    ///
    /// # Errors
    /// Where there is no sentence or an empty one, or the batch is too large for the device.
    pub fn batch(&self, sentences: &[Vec<u32>], batching: Batching) -> Result<Batch<'_>> {
        Batch::new(self, sentences, batching)
    }
}

impl Config {
    fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let json: Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let size = |name: &str| {
            let size = json[name].as_u64().filter(|&size| size > 0);
            let size = size.with_context(|| format!("{}: no size {name}", path.display()))?;
            Ok::<_, anyhow::Error>(size as usize)
        };
        if json["model_type"] != "bert" || json["hidden_act"] != "gelu" {
            bail!(
                "{}: a model of type {} with {}, where bert with gelu is expected",
                path.display(),
                json["model_type"],
                json["hidden_act"]
            );
        }
        Ok(Self {
            layers: size("num_hidden_layers")?,
            heads: size("num_attention_heads")?,
            width: size("hidden_size")?,
            wide: size("intermediate_size")?,
            vocabulary: size("vocab_size")?,
            most_tokens: size("max_position_embeddings")?,
            epsilon: json["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32,
        })
    }
}

/// A batch of sentences, ready to run.
#[derive(Debug)]
pub struct Batch<'m> {
    gpu: &'m Gpu,
    problem: Problem,
    attention: AttentionPlan,
    /// What the mask or the sequences read.
    aux: Vec<(AuxTensor, wgpu::Buffer)>,
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    embeddings: Rows,
    start: Vec<Dispatch>,
    /// Before and after attention.
    layers: Vec<[Vec<Dispatch>; 2]>,
    end: Dispatch,
}

impl<'m> Batch<'m> {
    fn new(model: &'m MiniLm<'_>, sentences: &[Vec<u32>], batching: Batching) -> Result<Self> {
        let gpu = model.gpu;
        let Config { heads, width, wide, .. } = model.sizes;
        let count = sentences.len();
        let longest = sentences.iter().map(Vec::len).max().context("no sentence")?;
        ensure!(sentences.iter().all(|tokens| !tokens.is_empty()), "a sentence without tokens");
        let packed = batching == Batching::Packed;
        let place = |length: usize| if packed { length } else { longest };

        let (mut tokens, mut positions, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        for sentence in sentences {
            ranges.push([tokens.len() as u32, sentence.len() as u32]);
            tokens.extend(sentence);
            positions.extend(0..place(sentence.len()) as u32);
            tokens.resize(positions.len(), PAD);
        }
        let rows = tokens.len();
        let shape = Shape::new(count, heads, longest, width / heads);
        let lengths: Vec<u32> = ranges.iter().map(|&[_, length]| length).collect();
        let starts: Vec<u32> =
            ranges.iter().map(|&[first, _]| first).chain([rows as u32]).collect();
        let (problem, aux) = match batching {
            Batching::Padded => (
                Problem::new(shape).mask(Mask::KeyLengths),
                vec![(AuxTensor::KeyLengths, gpu.upload(&lengths))],
            ),
            Batching::PaddingUnmasked => (Problem::new(shape), Vec::new()),
            Batching::Packed => {
                let sequences = Sequences {
                    q: QuerySequences::Packed { total: rows },
                    kv: KeySequences::Packed { total: rows },
                };
                let starts = gpu.upload(&starts);
                (
                    Problem::new(shape.sequences(sequences)),
                    vec![(AuxTensor::QStarts, starts.clone()), (AuxTensor::KvStarts, starts)],
                )
            }
        };
        let problem = problem.layout(Layout::Bshd);
        let attention = AttentionPlan::new(gpu.kernels(), &problem, &Default::default())?;

        let zeros = |columns| Rows::zeros(gpu, rows, columns);
        let [x, sums, q, k, v, o] = [0; 6].map(|_| zeros(width));
        let hidden = zeros(wide);
        let embeddings = Rows::zeros(gpu, count, width);
        let (tokens, positions) = (gpu.upload(&tokens), gpu.upload(&positions));
        let ranges = gpu.upload(&ranges);
        let start = vec![
            gpu.embed(&model.words, &tokens, &sums, false)?,
            gpu.embed(&model.positions, &positions, &sums, true)?,
            gpu.norm(&sums, &model.norm, &x, None)?,
        ];
        // BERT's norms stand behind the sums: what a branch adds to is `x` once, `sums` once.
        let layers = (model.layers.iter())
            .map(|layer| {
                let before = vec![
                    layer.q.dispatch(gpu, &x, &q, Default::default())?,
                    layer.k.dispatch(gpu, &x, &k, Default::default())?,
                    layer.v.dispatch(gpu, &x, &v, Default::default())?,
                ];
                let after = vec![
                    layer.o.dispatch(gpu, &o, &x, ADD)?,
                    gpu.norm(&x, &layer.attention_norm, &sums, None)?,
                    layer.wide.dispatch(gpu, &sums, &hidden, GELU)?,
                    layer.narrow.dispatch(gpu, &hidden, &sums, ADD)?,
                    gpu.norm(&sums, &layer.feed_forward_norm, &x, None)?,
                ];
                Ok([before, after])
            })
            .collect::<Result<_>>()?;
        let end = gpu.pool(&x, &ranges, &embeddings)?;
        Ok(Self { gpu, problem, attention, aux, q, k, v, o, embeddings, start, layers, end })
    }

    /// Records the whole model.
    ///
    /// # Errors
    /// Where attention refuses its buffers.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        Dispatch::encode_all(&self.start, encoder);
        self.encode_layers(encoder, self.layers.len())?;
        self.end.encode(encoder);
        Ok(())
    }

    /// The first so many layers.
    fn encode_layers(&self, encoder: &mut wgpu::CommandEncoder, count: usize) -> Result<()> {
        for [before, after] in self.layers.iter().take(count) {
            Dispatch::encode_all(before, encoder);
            self.attention.encode(encoder, &self.attention_buffers())?;
            Dispatch::encode_all(after, encoder);
        }
        Ok(())
    }

    /// Runs the model: an embedding of length 1 for each sentence.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn run(&self) -> Result<Vec<Vec<f32>>> {
        let mut encoder = self.gpu.encoder();
        self.encode(&mut encoder)?;
        self.gpu.submit(encoder);
        let values = self.gpu.read(&self.embeddings.values, self.embeddings.len())?;
        Ok(values.chunks(self.embeddings.columns).map(<[f32]>::to_vec).collect())
    }

    /// The weights of a layer's attention, `[sentences, heads, longest, longest]`; not of a packed batch.
    ///
    /// # Errors
    /// Where there is no such layer, or the device fails.
    pub fn attention_weights(&self, layer: usize) -> Result<Vec<f32>> {
        let plan = InspectPlan::new(self.gpu.kernels(), &self.problem)?;
        let cells = self.problem.shape().scores_len()?;
        let weights = self.gpu.zeros(cells);
        let mut encoder = self.gpu.encoder();
        Dispatch::encode_all(&self.start, &mut encoder);
        let [before, _] = self.layers.get(layer).context("no such layer")?;
        self.encode_layers(&mut encoder, layer)?;
        Dispatch::encode_all(before, &mut encoder);
        let buffers = InspectBuffers {
            q: self.q.values.slice(..),
            k: self.k.values.slice(..),
            aux: self.aux(),
            output: weights.slice(..),
        };
        plan.encode(&mut encoder, ScoreTensor::Weights, &buffers)?;
        self.gpu.submit(encoder);
        self.gpu.read(&weights, cells)
    }

    fn attention_buffers(&self) -> AttentionBuffers<'_> {
        AttentionBuffers {
            q: self.q.values.slice(..),
            k: self.k.values.slice(..),
            v: self.v.values.slice(..),
            aux: self.aux(),
            o: self.o.values.slice(..),
            lse: None,
        }
    }

    fn aux(&self) -> AuxBuffers<'_> {
        (self.aux.iter())
            .fold(AuxBuffers::new(), |aux, (name, buffer)| aux.with(*name, buffer.slice(..)))
    }
}

/// The cosine of each embedding with each, row by row.
pub fn similarities(embeddings: &[Vec<f32>]) -> Vec<f32> {
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    embeddings.iter().flat_map(|a| embeddings.iter().map(move |b| cosine(a, b))).collect()
}
