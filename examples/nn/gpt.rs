//! A small GPT over bytes of ASCII, whose batches are padded on the left.
//!
//! Padding on the left is what generation for a batch needs: every text ends in the last column, where the next token
//! appears. The padding mask then matters, since padding is in the past of every token, where the causal mask lets it be
//! seen.

use anyhow::Result;
use wgpu_attention::{AuxTensor, Mask};

use super::layers::{Builder, Sight};
use super::parameters::Parameters;
use super::tape::{Tape, Tensor};
use operators::Gpu;

/// Tokens are the codes of ASCII; code 0 doesn't occur in text and pads.
pub(crate) const VOCABULARY: usize = 128;
pub(crate) const PAD: u8 = 0;
/// How far the model sees.
pub(crate) const CONTEXT: usize = 128;
pub(crate) const LAYERS: usize = 4;
pub(crate) const HEADS: usize = 4;
const WIDTH: usize = 128;

/// What a model is trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masking {
    /// As it should be.
    Full,
    /// The future isn't masked.
    WithoutCausal,
    /// Padding isn't masked.
    PaddingUnmasked,
}

impl Masking {
    pub(crate) fn mask(self) -> Mask {
        match self {
            Self::Full => Mask::causal() & Mask::TokenPadding,
            Self::WithoutCausal => Mask::TokenPadding,
            Self::PaddingUnmasked => Mask::causal(),
        }
    }
}

/// The model on a tape, for batches of `batch` rows of `length` tokens.
pub(crate) struct Gpt<'g> {
    pub(crate) tape: Tape<'g>,
    pub(crate) logits: Tensor,
    batch: usize,
    length: usize,
    tokens: wgpu::Buffer,
    positions: wgpu::Buffer,
    targets: wgpu::Buffer,
    weights: wgpu::Buffer,
    losses: wgpu::Buffer,
}

impl<'g> Gpt<'g> {
    /// With a tape for training or for inference.
    pub(crate) fn new(
        mut tape: Tape<'g>,
        parameters: &mut Parameters<'g>,
        [batch, length]: [usize; 2],
        masking: Masking,
    ) -> Result<Self> {
        let gpu = tape.gpu();
        let rows = batch * length;
        let [tokens, positions, targets, weights] = [0; 4].map(|_| gpu.zeros(rows));
        let pad = gpu.upload(&[i32::from(PAD)]);
        let mask = masking.mask();
        let data = [(AuxTensor::TokenIds, &tokens), (AuxTensor::PadId, &pad)]
            .into_iter()
            .filter(|(input, _)| mask.aux_tensors().contains(input))
            .map(|(input, buffer)| (input, buffer.clone()))
            .collect();
        let sight = Sight { batch, heads: HEADS, mask, data, positions: Some(positions.clone()) };

        let mut build = Builder { tape: &mut tape, parameters, branches: 2 * LAYERS };
        let mut x = build.embed("embed", &tokens, [VOCABULARY, WIDTH], rows)?;
        for layer in 0..LAYERS {
            x = build.self_attention(&format!("layer{layer}.attention"), &x, &sight)?;
            x = build.feed_forward(&format!("layer{layer}.feed_forward"), &x)?;
        }
        let logits = build.head(&x, VOCABULARY)?;
        let losses = tape.cross_entropy(&logits, &targets, &weights)?;
        Ok(Self { tape, logits, batch, length, tokens, positions, targets, weights, losses })
    }

    /// Puts texts into the batch, each with the byte that follows it; each is at most `length` bytes and ends in the
    /// last column.
    pub(crate) fn write(&self, texts: &[(&[u8], u8)]) {
        assert_eq!(texts.len(), self.batch, "a text for each row");
        let cells = self.batch * self.length;
        let [mut tokens, mut positions, mut targets] = [0; 3].map(|_| vec![i32::from(PAD); cells]);
        let mut weights = vec![0.0_f32; cells];
        let real: usize = texts.iter().map(|(text, _)| text.len()).sum();
        for (row, (text, next)) in texts.iter().enumerate() {
            let start = (row + 1) * self.length - text.len();
            for (index, &byte) in text.iter().enumerate() {
                tokens[start + index] = i32::from(byte);
                positions[start + index] = index as i32;
                targets[start + index] = i32::from(*text.get(index + 1).unwrap_or(next));
                weights[start + index] = 1.0 / real as f32;
            }
        }
        let gpu = self.gpu();
        gpu.write(&self.tokens, &tokens);
        gpu.write(&self.positions, &positions);
        gpu.write(&self.targets, &targets);
        gpu.write(&self.weights, &weights);
    }

    /// The mean loss per real token of what was run last, in nats.
    pub(crate) fn loss(&self) -> Result<f32> {
        Ok(self.gpu().read(&self.losses, self.batch * self.length)?.iter().sum())
    }

    const fn gpu(&self) -> &'g Gpu {
        self.tape.gpu()
    }
}

/// Continues `prompt` by `count` bytes. `uniform` gives numbers in [0, 1), `temperature` sharpens or flattens the choice.
/// Every step runs the whole context again; the keys of earlier steps could be kept instead.
pub(crate) fn generate(
    model: &Gpt<'_>,
    prompt: &str,
    count: usize,
    temperature: f32,
    mut uniform: impl FnMut() -> f32,
) -> Result<String> {
    assert_eq!(model.batch, 1, "a model for one text");
    let mut text = prompt.as_bytes().to_vec();
    for _ in 0..count {
        let seen = &text[text.len().saturating_sub(model.length)..];
        model.write(&[(seen, PAD)]);
        model.tape.run()?;
        let logits = model.gpu().read(&model.logits.values, model.logits.len())?;
        let last = &logits[(model.length - 1) * VOCABULARY..];
        text.push(sample(last, temperature, uniform()) as u8);
    }
    Ok(String::from_utf8_lossy(&text[prompt.len()..]).into_owned())
}

/// The index at which the sum of the softmax passes `threshold`.
fn sample(logits: &[f32], temperature: f32, threshold: f32) -> usize {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f32> = logits.iter().map(|x| ((x - largest) / temperature).exp()).collect();
    let mut rest = threshold * weights.iter().sum::<f32>();
    weights
        .iter()
        .position(|weight| {
            rest -= weight;
            rest < 0.0
        })
        .unwrap_or(logits.len() - 1)
}
