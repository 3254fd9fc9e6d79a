//! The decoder: one token a step, which looks at the tokens before it, in a cache, and at all that the encoder heard.

use anyhow::{Result, ensure};
use operators::{Dispatch, Gpu, Mailbox, Matrix, Norm, Picker, Rows, Then};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::plan::{InspectBuffers, InspectPlan, ScoreTensor};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, KvCache, Layout, Mask, Problem, Shape,
};

use super::encoder::{FeedForward, HEARD};
use super::{Sizes, Special};
use crate::ctranslate::ModelFile;
use crate::layers::{ADD, Linear};

/// The decoder with its caches and buffers.
#[derive(Debug)]
pub(super) struct Decoder {
    sizes: Sizes,
    append: AppendPlan,
    own_problem: Problem,
    own: AttentionPlan,
    /// Attention to what was heard.
    cross: AttentionPlan,
    token: wgpu::Buffer,
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    chosen: wgpu::Buffer,
    mailbox: Mailbox,
    start: [Dispatch; 2],
    layers: Vec<Layer>,
    end: [Dispatch; 2],
    /// The choice of the first token of a window, which may not be its end, and of the others.
    first_choice: Dispatch,
    choice: Dispatch,
}

#[derive(Debug)]
struct Layer {
    cache: KvCache,
    /// Keys and values of what was heard, `[HEARD, width]`, and the queries of all tokens so far.
    heard_k: Rows,
    heard_v: Rows,
    asked: Rows,
    /// Makes keys and values of what was heard, once for each window.
    hear: [Dispatch; 2],
    before_own: Vec<Dispatch>,
    before_cross: Vec<Dispatch>,
    after: Vec<Dispatch>,
}

impl Decoder {
    pub(super) fn open(
        gpu: &Gpu,
        file: &ModelFile,
        sizes: Sizes,
        special: &Special,
        heard: &Rows,
    ) -> Result<Self> {
        let Sizes { width, wide, heads, vocabulary, places } = sizes;
        let dim = width / heads;
        let shape = CacheShape::new(1, heads, places, dim);
        let new = NewTokens::new(1).layout(Layout::Bshd);
        let own_problem = shape
            .problem(heads, 1, QuerySequences::Uniform)
            .layout(Layout::Bshd)
            .mask(Mask::causal());
        let row = |columns| Rows::zeros(gpu, 1, columns);
        let [x, normed, q, k, v, o] = [0; 6].map(|_| row(width));
        let (hidden, logits) = (row(wide), row(vocabulary));
        let layers = (0..file.count("decoder/layer_", "/ffn/linear_0/weight"))
            .map(|layer| {
                let name = format!("decoder/layer_{layer}");
                let square = [width, width];
                let part = |part: &str| format!("{name}/{part}");
                let linear =
                    |name: &str| -> Result<Linear> { file.linear(gpu, &part(name), square) };
                let norm = |name: &str| file.norm(gpu, &part(name), width);
                let [to_q, to_k, to_v] =
                    file.split_linear(gpu, &part("self_attention/linear_0"), square)?;
                let [hear_k, hear_v] =
                    file.split_linear(gpu, &part("attention/linear_1"), square)?;
                let [heard_k, heard_v] = [0; 2].map(|_| Rows::zeros(gpu, HEARD, width));
                let feed_forward = FeedForward::open(gpu, file, &part("ffn"), sizes)?;
                let mut after = vec![linear("attention/linear_2")?.dispatch(gpu, &o, &x, ADD)?];
                after.extend(feed_forward.dispatches(gpu, [&x, &normed, &hidden])?);
                Ok(Layer {
                    cache: KvCache::new(gpu.kernels(), &shape)?,
                    hear: [
                        hear_k.dispatch(gpu, heard, &heard_k, Then::default())?,
                        hear_v.dispatch(gpu, heard, &heard_v, Then::default())?,
                    ],
                    heard_k,
                    heard_v,
                    asked: Rows::zeros(gpu, places, width),
                    before_own: vec![
                        gpu.norm(&x, &norm("self_attention/layer_norm")?, &normed, None)?,
                        to_q.dispatch(gpu, &normed, &q, Then::default())?,
                        to_k.dispatch(gpu, &normed, &k, Then::default())?,
                        to_v.dispatch(gpu, &normed, &v, Then::default())?,
                    ],
                    before_cross: vec![
                        linear("self_attention/linear_1")?.dispatch(gpu, &o, &x, ADD)?,
                        gpu.norm(&x, &norm("attention/layer_norm")?, &normed, None)?,
                        linear("attention/linear_0")?.dispatch(
                            gpu,
                            &normed,
                            &q,
                            Then::default(),
                        )?,
                    ],
                    after,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(!layers.is_empty(), "the file has no decoder/layer_0");
        let embedding: Matrix =
            file.matrix(gpu, "decoder/embeddings/weight", [vocabulary, width])?;
        let positions =
            file.matrix(gpu, "decoder/position_encodings/encodings", [places, width])?;
        let norm: Norm = file.norm(gpu, "decoder/layer_norm", width)?;
        let (token, chosen) = (gpu.zeros(1), gpu.zeros(1));
        // A token stands at the number of those before it, which the first layer's cache counts.
        let position = layers[0].cache.lengths().buffer().clone();
        let picker = Picker::new(gpu, 0.0);
        let choice = |first| {
            let bias = gpu.upload(&special.bias(vocabulary, first));
            picker.dispatch(gpu, &logits, &bias, &chosen)
        };
        Ok(Self {
            append: AppendPlan::new(gpu.kernels(), &shape, &new)?,
            own: AttentionPlan::new(gpu.kernels(), &own_problem, &Default::default())?,
            cross: AttentionPlan::new(gpu.kernels(), &cross(sizes, 1), &Default::default())?,
            start: [
                gpu.embed(&embedding, &token, &x, false)?,
                gpu.embed(&positions, &position, &x, true)?,
            ],
            end: [
                gpu.norm(&x, &norm, &normed, None)?,
                gpu.product(&normed, &embedding, &logits, Then::default())?,
            ],
            first_choice: choice(true)?,
            choice: choice(false)?,
            mailbox: Mailbox::new(gpu, 1),
            sizes,
            own_problem,
            token,
            q,
            k,
            v,
            o,
            chosen,
            layers,
        })
    }

    /// Records that a window begins: keys and values of what was heard are made, and what was said is forgotten.
    pub(super) fn hear(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        for layer in &mut self.layers {
            Dispatch::encode_all(&layer.hear, encoder);
            layer.cache.set_length(encoder, 0, 0)?;
        }
        Ok(())
    }

    /// The token behind the one at `place`, which is given, or else the one chosen last. `is_first`: it is the window's first.
    pub(super) fn step(
        &mut self,
        gpu: &Gpu,
        place: usize,
        given: Option<u32>,
        is_first: bool,
    ) -> Result<u32> {
        let mut encoder = gpu.encoder();
        match given {
            Some(token) => gpu.write(&self.token, &[token]),
            None => encoder.copy_buffer_to_buffer(&self.chosen, 0, &self.token, 0, 4),
        }
        Dispatch::encode_all(&self.start, &mut encoder);
        let [q, k, v, o] = [&self.q, &self.k, &self.v, &self.o].map(|x| x.values.slice(..));
        for layer in &mut self.layers {
            Dispatch::encode_all(&layer.before_own, &mut encoder);
            self.append.encode(&mut encoder, &mut layer.cache, &AppendBuffers::new(k, v))?;
            let buffers =
                layer.cache.attention_buffers(&self.own_problem, q, AuxBuffers::new(), o)?;
            self.own.encode(&mut encoder, &buffers)?;
            Dispatch::encode_all(&layer.before_cross, &mut encoder);
            let bytes = self.sizes.width as u64 * 4;
            let to = place as u64 * bytes;
            encoder.copy_buffer_to_buffer(&self.q.values, 0, &layer.asked.values, to, bytes);
            let buffers = AttentionBuffers {
                q,
                k: layer.heard_k.values.slice(..),
                v: layer.heard_v.values.slice(..),
                aux: AuxBuffers::new(),
                o,
                lse: None,
            };
            self.cross.encode(&mut encoder, &buffers)?;
            Dispatch::encode_all(&layer.after, &mut encoder);
        }
        Dispatch::encode_all(&self.end, &mut encoder);
        let choice = if is_first { &self.first_choice } else { &self.choice };
        choice.encode(&mut encoder);
        self.mailbox.encode(&mut encoder, &self.chosen);
        gpu.submit(encoder);
        Ok(self.mailbox.receive(gpu)?[0])
    }

    /// How much each of the window's first `tokens` looked at each row that was heard, `[tokens, HEARD]`: the mean of the heads
    /// that are named by layer and number.
    pub(super) fn listening(
        &self,
        gpu: &Gpu,
        tokens: usize,
        heads: &[[usize; 2]],
    ) -> Result<Vec<f32>> {
        let problem = cross(self.sizes, tokens);
        let plan = InspectPlan::new(gpu.kernels(), &problem)?;
        let cells = problem.shape().scores_len()?;
        let output = gpu.zeros(cells);
        let mut mean = vec![0.0; tokens * HEARD];
        for (number, layer) in self.layers.iter().enumerate() {
            let named: Vec<usize> =
                heads.iter().filter(|[layer, _]| *layer == number).map(|&[_, head]| head).collect();
            if named.is_empty() {
                continue;
            }
            let mut encoder = gpu.encoder();
            let buffers = InspectBuffers {
                q: layer.asked.values.slice(..),
                k: layer.heard_k.values.slice(..),
                aux: AuxBuffers::new(),
                output: output.slice(..),
            };
            plan.encode(&mut encoder, ScoreTensor::Weights, &buffers)?;
            gpu.submit(encoder);
            let weights = gpu.read(&output, cells)?;
            for head in named {
                let own = &weights[head * tokens * HEARD..][..tokens * HEARD];
                mean.iter_mut().zip(own).for_each(|(mean, w)| *mean += w / heads.len() as f32);
            }
        }
        Ok(mean)
    }
}

/// Attention of some tokens to all that was heard.
fn cross(sizes: Sizes, tokens: usize) -> Problem {
    let shape = Shape::new(1, sizes.heads, tokens, sizes.width / sizes.heads).seq_len_kv(HEARD);
    Problem::new(shape).layout(Layout::Bshd)
}
