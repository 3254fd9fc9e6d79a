//! A pass of the model over some tokens, made once and recorded any number of times.

use std::cell::Cell;

use anyhow::{Result, bail, ensure};
use operators::{Dispatch, Mailbox, Picker, Then};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::plan::{InspectBuffers, InspectPlan, ScoreTensor};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{AttentionPlan, AuxBuffers, AuxTensor, Dtype, KvCache, Layout, Mask, Problem};

use super::Llama;
use crate::layers::ADD;

/// Which rows get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every one.
    All,
    /// The last of each sequence.
    Last,
}

/// A pass over so many tokens of each sequence, with its plans and buffers. All layers share them.
#[derive(Debug)]
pub struct Stage<'m> {
    model: &'m Llama<'m>,
    rows: usize,
    problem: Problem,
    append: AppendPlan,
    attention: AttentionPlan,
    tokens: wgpu::Buffer,
    starts: wgpu::Buffer,
    /// The rows that get logits.
    wanted: wgpu::Buffer,
    q: operators::Rows,
    rotated_q: operators::Rows,
    k: operators::Rows,
    v: operators::Rows,
    o: operators::Rows,
    logits: operators::Rows,
    chosen: wgpu::Buffer,
    picker: Picker,
    steps: Cell<u32>,
    mailbox: Mailbox,
    start: Dispatch,
    /// Before and after attention.
    layers: Vec<[Vec<Dispatch>; 2]>,
    end: Vec<Dispatch>,
}

impl<'m> Stage<'m> {
    /// For caches of this shape. `seq_len` is the most tokens of a sequence; `sequences` says how they lie. At a temperature
    /// above 0 tokens are chosen by chance.
    ///
    /// # Errors
    /// Where the shape is invalid or too large for the device.
    pub fn new(
        model: &'m Llama<'m>,
        shape: &CacheShape,
        seq_len: usize,
        sequences: QuerySequences,
        outputs: Rows,
        temperature: f32,
    ) -> Result<Self> {
        let (gpu, sizes) = (model.gpu, model.sizes);
        let rows = match sequences {
            QuerySequences::Packed { total } => total,
            _ => shape.batch * seq_len,
        };
        let logit_rows = match outputs {
            Rows::All => rows,
            Rows::Last => shape.batch,
        };
        let new = NewTokens::new(seq_len)
            .sequences(sequences)
            .layout(Layout::Bshd)
            .rotary(model.rotary())
            .hadamard(shape.dtype == Dtype::I4 && shape.head_dim.is_multiple_of(32))
            .query_heads(sizes.heads);
        let problem = shape
            .problem(sizes.heads, seq_len, sequences)
            .layout(Layout::Bshd)
            .mask(Mask::causal());
        let zeros = |columns| operators::Rows::zeros(gpu, rows, columns);
        let [x, normed, q, rotated_q, o] = [0; 5].map(|_| zeros(sizes.width));
        let [k, v] = [0; 2].map(|_| zeros(sizes.kv_heads * sizes.head_dim));
        let [gate, up, wide] = [0; 3].map(|_| zeros(sizes.wide));
        let tokens = gpu.zeros(rows);
        let start = gpu.embed(&model.embedding, &tokens, &x, false)?;
        let layers = (model.layers.iter())
            .map(|layer| {
                let before = vec![
                    gpu.norm(&x, &layer.attention_norm, &normed, None)?,
                    gpu.product(&normed, &layer.q, &q, Then::default())?,
                    gpu.product(&normed, &layer.k, &k, Then::default())?,
                    gpu.product(&normed, &layer.v, &v, Then::default())?,
                ];
                let after = vec![
                    gpu.product(&o, &layer.o, &x, ADD)?,
                    gpu.norm(&x, &layer.feed_forward_norm, &normed, None)?,
                    gpu.product(&normed, &layer.gate, &gate, Then::default())?,
                    gpu.product(&normed, &layer.up, &up, Then::default())?,
                    gpu.silu_product(&gate, &up, &wide)?,
                    gpu.product(&wide, &layer.down, &x, ADD)?,
                ];
                Ok([before, after])
            })
            .collect::<Result<_>>()?;

        let wanted: Vec<u32> = match outputs {
            Rows::All => (0..rows as u32).collect(),
            Rows::Last => (1..=shape.batch).map(|b| (b * seq_len) as u32 - 1).collect(),
        };
        let wanted = gpu.upload(&wanted);
        let last = |columns| operators::Rows::zeros(gpu, logit_rows, columns);
        let [ends, normed_ends] = [0; 2].map(|_| last(sizes.width));
        let logits = last(sizes.vocabulary);
        let chosen = gpu.zeros(logit_rows);
        let picker = Picker::new(gpu, temperature);
        let all = operators::Matrix {
            rows,
            columns: sizes.width,
            format: operators::Format::F32,
            values: x.values.clone(),
        };
        let end = vec![
            gpu.embed(&all, &wanted, &ends, false)?,
            gpu.norm(&ends, &model.norm, &normed_ends, None)?,
            gpu.product(&normed_ends, &model.embedding, &logits, Then::default())?,
            picker.dispatch(gpu, &logits, &gpu.zeros(sizes.vocabulary), &chosen)?,
        ];
        Ok(Self {
            model,
            rows,
            append: AppendPlan::new(gpu.kernels(), shape, &new)?,
            attention: AttentionPlan::new(gpu.kernels(), &problem, &Default::default())?,
            problem,
            tokens,
            starts: gpu.zeros(shape.batch + 1),
            wanted,
            q,
            rotated_q,
            k,
            v,
            o,
            mailbox: Mailbox::new(gpu, logit_rows),
            logits,
            chosen,
            picker,
            steps: Cell::new(0),
            start,
            layers,
            end,
        })
    }

    /// The tokens of the next pass, as many as it has rows, or fewer where sequences are packed.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn write(&self, tokens: &[u32]) -> Result<()> {
        ensure!(tokens.len() <= self.rows, "{} tokens for {} rows", tokens.len(), self.rows);
        self.model.gpu.write(&self.tokens, tokens);
        Ok(())
    }

    /// The packed sequences of the next pass: how many tokens each has. Logits are those of each one's last.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn write_packed(&self, sequences: &[&[u32]]) -> Result<()> {
        self.write(&sequences.concat())?;
        let (mut starts, mut wanted) = (vec![0u32], Vec::new());
        for sequence in sequences {
            let end = starts[starts.len() - 1] + sequence.len() as u32;
            starts.push(end);
            wanted.push(end.saturating_sub(1));
        }
        self.model.gpu.write(&self.starts, &starts);
        self.model.gpu.write(&self.wanted, &wanted);
        Ok(())
    }

    /// Records that the tokens that another pass has chosen are those of this one.
    pub fn take_tokens(&self, encoder: &mut wgpu::CommandEncoder, other: &Self) {
        let bytes = other.chosen.size().min(self.tokens.size());
        encoder.copy_buffer_to_buffer(&other.chosen, 0, &self.tokens, 0, bytes);
    }

    /// Records the pass, and the copy of what it chooses to the host. `lengths` is how many tokens each packed sequence has.
    ///
    /// # Errors
    /// Where a cache is full.
    pub fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        caches: &mut [KvCache],
        lengths: Option<&[usize]>,
    ) -> Result<()> {
        self.picker.reseed(self.model.gpu, self.steps.replace(self.steps.get().wrapping_add(1)));
        self.start.encode(encoder);
        for (layer, cache) in self.layers.iter().zip(caches) {
            self.encode_layer(encoder, layer, cache, lengths)?;
        }
        Dispatch::encode_all(&self.end, encoder);
        self.mailbox.encode(encoder, &self.chosen);
        Ok(())
    }

    fn encode_layer(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        [before, after]: &[Vec<Dispatch>; 2],
        cache: &mut KvCache,
        lengths: Option<&[usize]>,
    ) -> Result<()> {
        Dispatch::encode_all(before, encoder);
        self.encode_append(encoder, cache, lengths)?;
        let (q, o) = (self.rotated_q.values.slice(..), self.o.values.slice(..));
        let buffers = cache.attention_buffers(&self.problem, q, self.aux(), o)?;
        self.attention.encode(encoder, &buffers)?;
        Dispatch::encode_all(after, encoder);
        Ok(())
    }

    fn encode_append(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        cache: &mut KvCache,
        lengths: Option<&[usize]>,
    ) -> Result<()> {
        let mut buffers = AppendBuffers::new(self.k.values.slice(..), self.v.values.slice(..))
            .q(self.q.values.slice(..))
            .rotated_q(self.rotated_q.values.slice(..))
            .sequences(self.aux());
        buffers.lengths = lengths;
        Ok(self.append.encode(encoder, cache, &buffers)?)
    }

    /// The weights of a layer's attention over the tokens that were written and what is in the caches, which get the tokens:
    /// `[batch, heads, seq_len, capacity]`.
    ///
    /// # Errors
    /// As [`Stage::run`], and where there is no such layer.
    pub fn attention_weights(&self, caches: &mut [KvCache], layer: usize) -> Result<Vec<f32>> {
        let gpu = self.model.gpu;
        let plan = InspectPlan::new(gpu.kernels(), &self.problem)?;
        let cells = self.problem.shape().scores_len()?;
        let weights = gpu.zeros(cells);
        let mut encoder = gpu.encoder();
        self.start.encode(&mut encoder);
        for (number, (layers, cache)) in self.layers.iter().zip(caches).enumerate() {
            if number < layer {
                self.encode_layer(&mut encoder, layers, cache, None)?;
                continue;
            }
            Dispatch::encode_all(&layers[0], &mut encoder);
            self.encode_append(&mut encoder, cache, None)?;
            let buffers = InspectBuffers {
                q: self.rotated_q.values.slice(..),
                k: cache.k(),
                aux: cache.aux_buffers(self.aux()),
                output: weights.slice(..),
            };
            plan.encode(&mut encoder, ScoreTensor::Weights, &buffers)?;
            gpu.submit(encoder);
            return gpu.read(&weights, cells);
        }
        bail!("no layer {layer}, where there are {}", self.layers.len());
    }

    /// Runs the pass over the tokens that were written: the token that it chooses behind each row that has logits.
    ///
    /// # Errors
    /// As [`Stage::encode`], and where the device fails.
    pub fn run(&self, caches: &mut [KvCache], lengths: Option<&[usize]>) -> Result<Vec<u32>> {
        let mut encoder = self.model.gpu.encoder();
        self.encode(&mut encoder, caches, lengths)?;
        self.model.gpu.submit(encoder);
        self.chosen()
    }

    /// As [`Stage::run`], over the tokens that the pass before chose.
    ///
    /// # Errors
    /// As [`Stage::run`].
    pub fn run_after(&self, other: &Self, caches: &mut [KvCache]) -> Result<Vec<u32>> {
        let mut encoder = self.model.gpu.encoder();
        self.take_tokens(&mut encoder, other);
        self.encode(&mut encoder, caches, None)?;
        self.model.gpu.submit(encoder);
        self.chosen()
    }

    fn chosen(&self) -> Result<Vec<u32>> {
        self.mailbox.receive(self.model.gpu)
    }

    /// The logits, on the device.
    pub const fn logits(&self) -> &operators::Rows {
        &self.logits
    }

    /// The logits of the last run.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn read_logits(&self) -> Result<Vec<f32>> {
        self.model.gpu.read(&self.logits.values, self.logits.len())
    }

    /// What sequences of different lengths read.
    fn aux(&self) -> AuxBuffers<'_> {
        match self.problem.shape().sequences.q {
            QuerySequences::Packed { .. } => {
                AuxBuffers::new().with(AuxTensor::QStarts, self.starts.slice(..))
            }
            _ => AuxBuffers::new(),
        }
    }
}
