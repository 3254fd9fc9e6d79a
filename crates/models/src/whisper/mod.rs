//! Whisper: an encoder that hears 30 seconds of sound, and a decoder that writes down what was said.
//!
//! Three attentions under three masks: in the encoder everything looks at everything; in the decoder a token looks at itself
//! and those before it; and each token looks at all that the encoder heard, whose keys and values are made once for a
//! window.

mod decoder;
mod encoder;
mod sound;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use operators::Gpu;
use serde_json::Value;
use tokenizers::Tokenizer;

pub use sound::{RATE, log_mel, read_wav};

use crate::ctranslate::ModelFile;
use decoder::Decoder;
use encoder::{Encoder, HEARD};
use sound::BANDS;

/// Frames of mel bands of a window: 30 seconds.
pub const FRAMES: usize = 3000;
/// Frames in a second.
const FRAMES_PER_SECOND: usize = 100;

/// The model on a device.
#[derive(Debug)]
pub struct Whisper<'g> {
    gpu: &'g Gpu,
    encoder: Encoder,
    decoder: Decoder,
    tokenizer: Tokenizer,
    special: Special,
    places: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    width: usize,
    wide: usize,
    heads: usize,
    vocabulary: usize,
    /// The most tokens of a window.
    places: usize,
}

/// Tokens that mean something else than text.
#[derive(Debug)]
struct Special {
    start: u32,
    no_timestamps: u32,
    end: u32,
    /// Those that aren't chosen: never, and not as the first.
    suppressed: Vec<usize>,
    suppressed_first: Vec<usize>,
    /// Layers and heads that look where a word was said.
    alignment: Vec<[usize; 2]>,
}

/// What was said in a window of 30 seconds.
#[derive(Debug, Clone)]
pub struct Window {
    /// Where it begins, in seconds.
    pub start: f64,
    /// How many seconds of it are sound.
    pub seconds: f64,
    /// The text's tokens.
    pub tokens: Vec<u32>,
    /// The text.
    pub text: String,
    /// `[tokens, columns]`: how much each token looked at each of the window's pieces of 20 ms, if that was asked for.
    pub listening: Option<Vec<f32>>,
}

impl Window {
    /// Pieces of 20 ms that are sound: columns of [`Window::listening`].
    pub fn columns(&self) -> usize {
        ((self.seconds * (FRAMES_PER_SECOND / 2) as f64).ceil() as usize).clamp(1, HEARD)
    }
}

impl<'g> Whisper<'g> {
    /// Reads `model.bin`, `config.json` and `tokenizer.json` of a folder, as CTranslate2 has them. English models alone:
    /// others want to be told the language.
    ///
    /// # Errors
    /// Where one of them is missing or of another model, or lacks a tensor.
    pub fn open(gpu: &'g Gpu, folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        let special = Special::open(&tokenizer, &folder.join("config.json"))?;
        let path = folder.join("model.bin");
        let file = ModelFile::open(&path)?;
        let parts = || -> Result<_> {
            ensure!(
                file.kind() == "WhisperSpec",
                "a {}, where a WhisperSpec is expected",
                file.kind()
            );
            let [vocabulary, width] = *file.dims("decoder/embeddings/weight")? else {
                anyhow::bail!("decoder/embeddings/weight is no matrix");
            };
            let sizes = Sizes {
                width,
                wide: file.dims("encoder/layer_0/ffn/linear_0/weight")?[0],
                heads: file.short("encoder/num_heads")?,
                vocabulary,
                places: file.dims("decoder/position_encodings/encodings")?[0],
            };
            ensure!(
                sizes.heads > 0 && width.is_multiple_of(sizes.heads),
                "{} heads don't divide a width of {width}",
                sizes.heads
            );
            special.check(vocabulary)?;
            let encoder = Encoder::open(gpu, &file, sizes)?;
            let decoder = Decoder::open(gpu, &file, sizes, &special, &encoder.heard)?;
            Ok((encoder, decoder, sizes.places))
        };
        let (encoder, decoder, places) = parts().with_context(|| path.display().to_string())?;
        Ok(Self { gpu, encoder, decoder, tokenizer, special, places })
    }

    /// What is said in samples at 16 kHz, a window of 30 seconds after the other; `done` is told of each. With `listen`, also
    /// what each token listened to.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn transcribe(
        &mut self,
        samples: &[f32],
        listen: bool,
        mut done: impl FnMut(&Window),
    ) -> Result<Vec<Window>> {
        let bands = log_mel(samples);
        // The frame that was added at the end counts for nothing.
        let frames = samples.len() / (RATE / FRAMES_PER_SECOND);
        let mut windows = Vec::new();
        for first in (0..frames).step_by(FRAMES) {
            let count = FRAMES.min(frames - first);
            let window = &bands[first * BANDS..][..count * BANDS];
            self.encode(window)?;
            let mut window = self.write_down(count, listen)?;
            window.start = first as f64 / FRAMES_PER_SECOND as f64;
            done(&window);
            windows.push(window);
        }
        Ok(windows)
    }

    /// What the encoder makes of mel bands `[frames, 80]`, at most [`FRAMES`] of them: `[1500, width]`.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn heard(&mut self, bands: &[f32]) -> Result<Vec<f32>> {
        self.encode(bands)?;
        self.gpu.read(&self.encoder.heard.values, self.encoder.heard.len())
    }

    /// Submits the encoder over a window, and what the decoder makes of it once.
    fn encode(&mut self, bands: &[f32]) -> Result<()> {
        ensure!(bands.len() <= FRAMES * BANDS, "{} mel bands for a window", bands.len());
        // Behind the end there are zeros.
        let mut window = bands.to_vec();
        window.resize(FRAMES * BANDS, 0.0);
        self.gpu.write(&self.encoder.bands.values, &window);
        let mut encoder = self.gpu.encoder();
        self.encoder.encode(&mut encoder)?;
        self.decoder.hear(&mut encoder)?;
        self.gpu.submit(encoder);
        Ok(())
    }

    fn write_down(&mut self, frames: usize, listen: bool) -> Result<Window> {
        let prompt = [self.special.start, self.special.no_timestamps];
        self.decoder.step(self.gpu, 0, Some(prompt[0]), false)?;
        let mut token = self.decoder.step(self.gpu, 1, Some(prompt[1]), true)?;
        let mut tokens = Vec::new();
        while token != self.special.end && prompt.len() + tokens.len() < self.places {
            let place = prompt.len() + tokens.len();
            tokens.push(token);
            token = self.decoder.step(self.gpu, place, None, false)?;
        }
        let text = self.tokenizer.decode(&tokens, true).map_err(anyhow::Error::msg)?;
        let mut window = Window {
            start: 0.0,
            seconds: frames as f64 / FRAMES_PER_SECOND as f64,
            tokens,
            text,
            listening: None,
        };
        if listen && !window.tokens.is_empty() {
            // The query that chooses a token is that of the one before it.
            let rows = prompt.len() - 1 + window.tokens.len();
            let weights = self.decoder.listening(self.gpu, rows, &self.special.alignment)?;
            let columns = window.columns();
            window.listening = Some(
                (weights.chunks(HEARD).skip(prompt.len() - 1))
                    .flat_map(|row| row[..columns].to_vec())
                    .collect(),
            );
        }
        Ok(window)
    }

    /// A token as text, for pictures.
    pub fn word(&self, token: u32) -> String {
        self.tokenizer.decode(&[token], true).unwrap_or_default()
    }
}

impl Special {
    fn open(tokenizer: &Tokenizer, config: &Path) -> Result<Self> {
        let name = || config.display().to_string();
        let text = std::fs::read_to_string(config).with_context(name)?;
        let json: Value = serde_json::from_str(&text).with_context(name)?;
        let list = |key: &str| -> Result<Vec<usize>> {
            serde_json::from_value(json[key].clone())
                .with_context(|| format!("{}: {key} is no list of tokens", name()))
        };
        let token = |word: &str| {
            tokenizer
                .token_to_id(word)
                .with_context(|| format!("the tokenizer has no {word}: it isn't Whisper's"))
        };
        Ok(Self {
            start: token("<|startoftranscript|>")?,
            no_timestamps: token("<|notimestamps|>")?,
            end: token("<|endoftext|>")?,
            suppressed: list("suppress_ids")?,
            suppressed_first: list("suppress_ids_begin")?,
            alignment: serde_json::from_value(json["alignment_heads"].clone())
                .with_context(|| format!("{}: alignment_heads", name()))?,
        })
    }

    /// Whether the model has these tokens.
    fn check(&self, vocabulary: usize) -> Result<()> {
        let own = [self.start, self.no_timestamps, self.end].map(|token| token as usize);
        let all = [&own[..], &self.suppressed, &self.suppressed_first].concat();
        let largest = all.into_iter().max().unwrap_or(0);
        ensure!(
            largest < vocabulary,
            "a tokenizer with a token {largest} doesn't fit a model of {vocabulary} tokens"
        );
        Ok(())
    }

    /// What is added to logits.
    fn bias(&self, vocabulary: usize, first: bool) -> Vec<f32> {
        let mut bias = vec![0.0; vocabulary];
        let also = if first { &self.suppressed_first[..] } else { &[] };
        self.suppressed.iter().chain(also).for_each(|&token| bias[token] = -1e30);
        bias
    }
}
