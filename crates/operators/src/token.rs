//! The choice of the next token, on the device.

use anyhow::{Result, ensure};

use crate::gpu::{Dispatch, Gpu};
use crate::rows::Rows;

/// Chooses a column of each row of logits: the largest, or by chance.
#[derive(Debug)]
pub struct Picker {
    settings: wgpu::Buffer,
    temperature: f32,
}

impl Picker {
    /// At temperature 0 always the largest logit, above by the probabilities of `softmax(logits / temperature)`.
    pub fn new(gpu: &Gpu, temperature: f32) -> Self {
        let picker = Self { settings: gpu.zeros(2), temperature };
        picker.reseed(gpu, 0);
        picker
    }

    /// Other random numbers for what is submitted next: once for each step.
    pub fn reseed(&self, gpu: &Gpu, seed: u32) {
        gpu.write(&self.settings, &[self.temperature.to_bits(), seed]);
    }

    /// `tokens[row]` becomes the chosen column of `logits`, u32. `bias`, f32 `[columns]`, is added to every row.
    ///
    /// # Errors
    /// Where the sizes don't fit.
    pub fn dispatch(
        &self,
        gpu: &Gpu,
        logits: &Rows,
        bias: &wgpu::Buffer,
        tokens: &wgpu::Buffer,
    ) -> Result<Dispatch> {
        ensure!(
            bias.size() >= logits.columns as u64 * 4 && tokens.size() >= logits.rows as u64 * 4,
            "a bias of {} and {} tokens, for logits of [{}, {}]",
            bias.size() / 4,
            tokens.size() / 4,
            logits.rows,
            logits.columns
        );
        let sizes = [logits.rows, logits.columns].map(|size| size as u32);
        let buffers = [&logits.values, &self.settings, bias, tokens];
        let text = include_str!("kernels/pick.wgsl");
        gpu.dispatch(("", text), &sizes, &buffers, [logits.rows, 1])
    }
}
