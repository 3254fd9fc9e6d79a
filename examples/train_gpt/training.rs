//! One run: training, what is kept of it, and what the model then says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use wgpu_attention_tools::files::{TensorFile, TensorWriter};

use crate::data::{self, Piece};
use crate::nn::adamw::{AdamW, Schedule};
use crate::nn::gpt::{CONTEXT, Gpt, Masking, generate};
use crate::nn::parameters::Parameters;
use crate::nn::progress::Progress;
use crate::nn::tape::Tape;
use operators::Gpu;

/// Pieces per step.
const BATCH: usize = 4;
/// Steps from one evaluation to the next.
pub(crate) const EVALUATE_EVERY: usize = 50;
/// Batches of an evaluation.
const EVALUATION_BATCHES: usize = 8;
/// What samples continue.
pub(crate) const PROMPT: &str = "`I wonder,' said Alice";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) steps: usize,
    pub(crate) seed: u64,
}

/// A run, over or read from its file.
pub(crate) struct Run<'g> {
    pub(crate) settings: Settings,
    pub(crate) masking: Masking,
    pub(crate) parameters: Parameters<'g>,
    /// The loss of each step's batch.
    pub(crate) losses: Vec<f32>,
    /// The loss on text that isn't trained on: before the first step and after every [`EVALUATE_EVERY`].
    pub(crate) validation: Vec<f32>,
    pub(crate) seconds: f64,
    pub(crate) device: String,
}

impl<'g> Run<'g> {
    pub(crate) fn train(gpu: &'g Gpu, settings: Settings, masking: Masking) -> Result<Self> {
        let mut parameters = Parameters::random(gpu, settings.seed);
        let tape = Tape::for_training(gpu);
        let model = Gpt::new(tape, &mut parameters, [BATCH, CONTEXT], masking)?;
        let schedule = Schedule { rate: 3e-3, decay: 0.05, warmup: 40, steps: settings.steps };
        let mut optimizer = AdamW::new(gpu, &parameters, schedule)?;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(settings.seed);
        let (mut losses, mut validation) = (Vec::new(), Vec::new());
        let progress = Progress::new(name(masking), settings.steps);
        for step in 0..settings.steps {
            if step % EVALUATE_EVERY == 0 {
                validation.push(evaluate(&model, validation_pieces)?);
            }
            let pieces: Vec<_> =
                (0..BATCH).map(|_| data::piece(data::training(), &mut random)).collect();
            model.write(&pieces);
            let mut encoder = gpu.encoder();
            model.tape.encode(&mut encoder)?;
            model.tape.encode_zero_gradients(&mut encoder);
            model.tape.encode_backward(&mut encoder)?;
            optimizer.encode(gpu, &mut encoder);
            gpu.submit(encoder);
            let loss = model.loss()?;
            losses.push(loss);
            progress.step(step, loss);
        }
        validation.push(evaluate(&model, validation_pieces)?);
        let seconds = progress.finish();
        ensure!(
            validation.last() < validation.first(),
            "{}: the loss on unseen text doesn't fall: {validation:?}",
            name(masking)
        );
        let device = gpu.name();
        Ok(Self { settings, masking, parameters, losses, validation, seconds, device })
    }

    /// What it came to, in a line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{}: {} parameters, {} steps of {BATCH} pieces, seed {}: loss on unseen text {:.2} -> {:.2} nats per byte, {:.0} s",
            name(self.masking),
            self.parameters.count(),
            self.settings.steps,
            self.settings.seed,
            self.validation.first().copied().unwrap_or(f32::NAN),
            self.validation.last().copied().unwrap_or(f32::NAN),
            self.seconds,
        )
    }

    /// Its loss on unseen text, under the mask of its choice.
    pub(crate) fn evaluate_under(&mut self, gpu: &'g Gpu, masking: Masking) -> Result<f32> {
        self.evaluate_on(gpu, masking, CONTEXT, validation_pieces)
    }

    /// Its loss on other pieces, in rows of `length`.
    pub(crate) fn evaluate_on(
        &mut self,
        gpu: &'g Gpu,
        masking: Masking,
        length: usize,
        pieces: impl Fn(&mut Xoshiro256PlusPlus) -> Piece,
    ) -> Result<f32> {
        let tape = Tape::for_inference(gpu);
        let model = Gpt::new(tape, &mut self.parameters, [BATCH, length], masking)?;
        evaluate(&model, pieces)
    }

    /// A continuation of [`PROMPT`], one byte at a time.
    pub(crate) fn sample(&mut self, gpu: &'g Gpu, count: usize) -> Result<String> {
        let tape = Tape::for_inference(gpu);
        let model = Gpt::new(tape, &mut self.parameters, [1, CONTEXT], self.masking)?;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.settings.seed);
        generate(&model, PROMPT, count, 0.6, || random.random_range(0.0..1.0))
    }

    pub(crate) fn path(folder: &Path, masking: Masking) -> PathBuf {
        folder.join(format!("{}.safetensors", name(masking).replace(' ', "-")))
    }

    /// Writes weights, curves and settings; returns where.
    pub(crate) fn save(&self, folder: &Path) -> Result<PathBuf> {
        let path = Self::path(folder, self.masking);
        let writer = TensorWriter::new()
            .f32("curve.losses", &[self.losses.len()], &self.losses)
            .f32("curve.validation", &[self.validation.len()], &self.validation)
            .metadata("steps", self.settings.steps.to_string())
            .metadata("seed", self.settings.seed.to_string())
            .metadata("seconds", format!("{:.0}", self.seconds))
            .metadata("device", &self.device);
        std::fs::create_dir_all(folder)?;
        self.parameters.write(writer)?.save(&path)?;
        Ok(path)
    }

    /// The run in the folder, if it is one of these settings.
    pub(crate) fn open(
        gpu: &'g Gpu,
        folder: &Path,
        settings: Settings,
        masking: Masking,
    ) -> Result<Option<Self>> {
        let path = Self::path(folder, masking);
        if !path.is_file() {
            return Ok(None);
        }
        let file = TensorFile::open(&path)?;
        let entry = |key: &str| file.metadata(key).unwrap_or_default().to_owned();
        if [entry("steps"), entry("seed")]
            != [settings.steps.to_string(), settings.seed.to_string()]
        {
            return Ok(None);
        }
        let losses = file.read_f32("curve.losses")?.values;
        let validation = file.read_f32("curve.validation")?.values;
        let seconds = entry("seconds").parse().context("the run's seconds")?;
        let device = entry("device");
        let parameters = Parameters::from_file(gpu, file);
        Ok(Some(Self { settings, masking, parameters, losses, validation, seconds, device }))
    }
}

/// What a run is called, in files too.
pub(crate) const fn name(masking: Masking) -> &'static str {
    match masking {
        Masking::Full => "gpt",
        Masking::WithoutCausal => "gpt without causal",
        Masking::PaddingUnmasked => "gpt padding unmasked",
    }
}

/// Pieces as in training, of text that wasn't trained on.
fn validation_pieces(random: &mut Xoshiro256PlusPlus) -> Piece {
    data::piece(data::validation(), random)
}

/// The mean loss over some batches, the same ones every time.
fn evaluate(model: &Gpt<'_>, pieces: impl Fn(&mut Xoshiro256PlusPlus) -> Piece) -> Result<f32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(0);
    let mut sum = 0.0;
    for _ in 0..EVALUATION_BATCHES {
        let batch: Vec<_> = (0..BATCH).map(|_| pieces(&mut random)).collect();
        model.write(&batch);
        model.tape.run()?;
        sum += model.loss()?;
    }
    Ok(sum / EVALUATION_BATCHES as f32)
}
