//! An encoder–decoder: trained with teacher forcing, all positions of the target at once; translating token by token,
//! with the keys and values of earlier tokens kept.
//!
//! ```text
//! encoder self-attention     key_lengths           padding of the source
//! decoder self-attention     causal & key_lengths  the future and padding of the target
//! cross-attention            key_lengths           padding of the source
//! ```

use anyhow::Result;
use wgpu_attention::{AuxTensor, Mask};

use super::layers::{Builder, Sight};
use super::parameters::Parameters;
use super::tape::{Tape, Tensor};
use operators::Gpu;

const WIDTH: usize = 64;
const HEADS: usize = 4;
const LAYERS: usize = 2;

/// Tokens of both languages.
pub(crate) const PAD: i32 = 0;
/// Of the target alone: what the decoder is given first, and what it ends with.
pub(crate) const START: i32 = 1;
pub(crate) const END: i32 = 2;

/// How large everything is. Vocabularies are multiples of 4.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) source_vocabulary: usize,
    pub(crate) source_length: usize,
    pub(crate) target_vocabulary: usize,
    /// With the token of the end.
    pub(crate) target_length: usize,
}

/// Which masks there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masks {
    pub(crate) encoder_padding: bool,
    pub(crate) causal: bool,
    pub(crate) cross_padding: bool,
}

impl Masks {
    pub(crate) const ALL: Self = Self { encoder_padding: true, causal: true, cross_padding: true };
}

/// Sources of a batch on the device.
struct Sources {
    tokens: wgpu::Buffer,
    positions: wgpu::Buffer,
    lengths: wgpu::Buffer,
}

impl Sources {
    fn new(gpu: &Gpu, sizes: Sizes) -> Self {
        Self {
            tokens: gpu.zeros(sizes.batch * sizes.source_length),
            positions: gpu.upload(&positions(sizes.batch, sizes.source_length)),
            lengths: gpu.zeros(sizes.batch),
        }
    }

    /// `padding` gives what stands behind a sequence's end.
    fn write(
        &self,
        gpu: &Gpu,
        sources: &[Vec<i32>],
        length: usize,
        mut padding: impl FnMut() -> i32,
    ) {
        let lengths: Vec<i32> = sources.iter().map(|source| source.len() as i32).collect();
        let tokens: Vec<i32> = sources
            .iter()
            .flat_map(|source| {
                let pads: Vec<i32> = (source.len()..length).map(|_| padding()).collect();
                [source.as_slice(), &pads].concat()
            })
            .collect();
        gpu.write(&self.tokens, &tokens);
        gpu.write(&self.lengths, &lengths);
    }
}

/// 0, 1, 2, … for each sequence.
fn positions(batch: usize, length: usize) -> Vec<i32> {
    (0..batch).flat_map(|_| 0..length as i32).collect()
}

fn sight(sizes: Sizes, mask: Mask, lengths: &wgpu::Buffer) -> Sight {
    let reads = mask.aux_tensors().contains(&AuxTensor::KeyLengths);
    let data = if reads { vec![(AuxTensor::KeyLengths, lengths.clone())] } else { Vec::new() };
    Sight { batch: sizes.batch, heads: HEADS, mask, data, positions: None }
}

/// `key_lengths`, or nothing where that is left out.
const fn padding_mask(is_there: bool) -> Mask {
    if is_there { Mask::KeyLengths } else { Mask::All }
}

/// The encoder: what the decoder reads of the source.
fn encode(
    build: &mut Builder<'_, '_>,
    sizes: Sizes,
    masks: Masks,
    sources: &Sources,
) -> Result<Tensor> {
    let rows = sizes.batch * sizes.source_length;
    let table = [sizes.source_vocabulary, sizes.source_length, WIDTH];
    let mut x = build.embed_both("encoder", [&sources.tokens, &sources.positions], table, rows)?;
    let sight = sight(sizes, padding_mask(masks.encoder_padding), &sources.lengths);
    for layer in 0..LAYERS {
        x = build.self_attention(&format!("encoder{layer}.attention"), &x, &sight)?;
        x = build.feed_forward(&format!("encoder{layer}.feed_forward"), &x)?;
    }
    build.norm("encoder.norm", &x)
}

/// Both halves with a way back.
pub(crate) struct Trainer<'g> {
    pub(crate) tape: Tape<'g>,
    sizes: Sizes,
    sources: Sources,
    inputs: wgpu::Buffer,
    lengths: wgpu::Buffer,
    labels: wgpu::Buffer,
    weights: wgpu::Buffer,
    logits: Tensor,
    losses: wgpu::Buffer,
}

impl<'g> Trainer<'g> {
    pub(crate) fn new(
        mut tape: Tape<'g>,
        parameters: &mut Parameters<'g>,
        sizes: Sizes,
        masks: Masks,
    ) -> Result<Self> {
        let gpu = tape.gpu();
        let sources = Sources::new(gpu, sizes);
        let rows = sizes.batch * sizes.target_length;
        let [inputs, labels, weights] = [0; 3].map(|_| gpu.zeros(rows));
        let lengths = gpu.zeros(sizes.batch);
        let places = gpu.upload(&positions(sizes.batch, sizes.target_length));

        let mut build = Builder { tape: &mut tape, parameters, branches: 3 * LAYERS };
        let memory = encode(&mut build, sizes, masks, &sources)?;
        let table = [sizes.target_vocabulary, sizes.target_length, WIDTH];
        let mut x = build.embed_both("decoder", [&inputs, &places], table, rows)?;
        let past = match masks.causal {
            true => Mask::causal() & Mask::KeyLengths,
            false => Mask::KeyLengths,
        };
        let past = sight(sizes, past, &lengths);
        let source = sight(sizes, padding_mask(masks.cross_padding), &sources.lengths);
        for layer in 0..LAYERS {
            x = build.self_attention(&format!("decoder{layer}.attention"), &x, &past)?;
            let name = format!("decoder{layer}.cross");
            let [k, v] = build.keys_and_values(&name, &memory)?;
            x = build.attention_over(&name, &x, [&k, &v], &source)?;
            x = build.feed_forward(&format!("decoder{layer}.feed_forward"), &x)?;
        }
        let logits = build.head(&x, sizes.target_vocabulary)?;
        let losses = tape.cross_entropy(&logits, &labels, &weights)?;
        Ok(Self { tape, sizes, sources, inputs, lengths, labels, weights, logits, losses })
    }

    /// A batch of sources with their targets, which are given to the decoder one step late: teacher forcing.
    pub(crate) fn write(&self, sources: &[Vec<i32>], targets: &[Vec<i32>]) {
        let (gpu, length) = (self.tape.gpu(), self.sizes.target_length);
        self.sources.write(gpu, sources, self.sizes.source_length, || PAD);
        let cells = targets.len() * length;
        let [mut inputs, mut labels] = [0; 2].map(|_| vec![PAD; cells]);
        let mut weights = vec![0.0_f32; cells];
        let real: usize = targets.iter().map(|target| target.len() + 1).sum();
        for (row, target) in targets.iter().enumerate() {
            let start = row * length;
            inputs[start] = START;
            inputs[start + 1..][..target.len()].copy_from_slice(target);
            labels[start..][..target.len()].copy_from_slice(target);
            labels[start + target.len()] = END;
            weights[start..=start + target.len()].fill(1.0 / real as f32);
        }
        let lengths: Vec<i32> = targets.iter().map(|target| target.len() as i32 + 1).collect();
        gpu.write(&self.inputs, &inputs);
        gpu.write(&self.labels, &labels);
        gpu.write(&self.weights, &weights);
        gpu.write(&self.lengths, &lengths);
    }

    /// The mean loss per token of what was run last, in nats.
    pub(crate) fn loss(&self) -> Result<f32> {
        let rows = self.sizes.batch * self.sizes.target_length;
        Ok(self.tape.gpu().read(&self.losses, rows)?.iter().sum())
    }

    /// The likeliest token at every place of what was run last, `[batch, target_length]`.
    pub(crate) fn guesses(&self) -> Result<Vec<i32>> {
        likeliest(self.tape.gpu(), &self.logits)
    }
}

/// Both halves for translating: the encoder runs once, the decoder once per token.
pub(crate) struct Translator<'g> {
    gpu: &'g Gpu,
    sizes: Sizes,
    encoder: Tape<'g>,
    decoder: Tape<'g>,
    sources: Sources,
    token: wgpu::Buffer,
    place: wgpu::Buffer,
    logits: Tensor,
}

impl<'g> Translator<'g> {
    pub(crate) fn new(
        gpu: &'g Gpu,
        parameters: &mut Parameters<'g>,
        sizes: Sizes,
        masks: Masks,
    ) -> Result<Self> {
        let sources = Sources::new(gpu, sizes);
        // The encoder's end: the keys and values of every cross-attention.
        let mut encoder = Tape::for_inference(gpu);
        let mut build = Builder { tape: &mut encoder, parameters, branches: 3 * LAYERS };
        let memory = encode(&mut build, sizes, masks, &sources)?;
        let crossed: Vec<_> = (0..LAYERS)
            .map(|layer| build.keys_and_values(&format!("decoder{layer}.cross"), &memory))
            .collect::<Result<_>>()?;

        // One token of each sequence; the past is in the caches.
        let [token, place] = [0; 2].map(|_| gpu.zeros(sizes.batch));
        let mut decoder = Tape::for_inference(gpu);
        let mut build = Builder { tape: &mut decoder, parameters, branches: 3 * LAYERS };
        let table = [sizes.target_vocabulary, sizes.target_length, WIDTH];
        let mut x = build.embed_both("decoder", [&token, &place], table, sizes.batch)?;
        let source = sight(sizes, padding_mask(masks.cross_padding), &sources.lengths);
        for (layer, [k, v]) in crossed.iter().enumerate() {
            let name = format!("decoder{layer}.attention");
            x = build.cached_self_attention(&name, &x, HEADS, sizes.target_length)?;
            x = build.attention_over(&format!("decoder{layer}.cross"), &x, [k, v], &source)?;
            x = build.feed_forward(&format!("decoder{layer}.feed_forward"), &x)?;
        }
        let logits = build.head(&x, sizes.target_vocabulary)?;
        Ok(Self { gpu, sizes, encoder, decoder, sources, token, place, logits })
    }

    /// Translates a batch; `padding` gives what stands behind a source's end. Always the likeliest token, until each
    /// sequence has ended or has no place left.
    pub(crate) fn translate(
        &self,
        sources: &[Vec<i32>],
        padding: impl FnMut() -> i32,
    ) -> Result<Vec<Vec<i32>>> {
        assert_eq!(sources.len(), self.sizes.batch, "a source for each row");
        self.sources.write(self.gpu, sources, self.sizes.source_length, padding);
        self.encoder.run()?;
        self.decoder.forget()?;
        let mut targets = vec![Vec::new(); sources.len()];
        let mut ended = vec![false; sources.len()];
        let mut tokens = vec![START; sources.len()];
        for place in 0..self.sizes.target_length as i32 {
            self.gpu.write(&self.token, &tokens);
            self.gpu.write(&self.place, &vec![place; sources.len()]);
            self.decoder.run()?;
            tokens = likeliest(self.gpu, &self.logits)?;
            for ((token, target), ended) in tokens.iter().zip(&mut targets).zip(&mut ended) {
                *ended |= *token == END;
                if !*ended {
                    target.push(*token);
                }
            }
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        Ok(targets)
    }
}

fn likeliest(gpu: &Gpu, logits: &Tensor) -> Result<Vec<i32>> {
    let values = gpu.read(&logits.values, logits.len())?;
    let place = |row: &[f32]| {
        let by_value = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
        row.iter().enumerate().max_by(by_value).map_or(PAD, |(place, _)| place as i32)
    };
    Ok(values.chunks(logits.columns).map(place).collect())
}
