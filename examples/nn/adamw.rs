//! AdamW, a dispatch per parameter.

use anyhow::Result;

use super::parameters::Parameters;
use operators::{Dispatch, Gpu, WORKGROUP_SIZE};

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.98;

/// The rate rises over the first steps and falls along a cosine to a tenth at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) rate: f32,
    pub(crate) decay: f32,
    pub(crate) warmup: usize,
    pub(crate) steps: usize,
}

impl Schedule {
    /// The rate of the step, from 0.
    fn at(&self, step: usize) -> f32 {
        if step < self.warmup {
            return self.rate * (step + 1) as f32 / self.warmup as f32;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f32 / rest as f32).min(1.0);
        self.rate * (0.55 + 0.45 * (progress * std::f32::consts::PI).cos())
    }
}

/// The optimiser's state on the device.
pub(crate) struct AdamW {
    schedule: Schedule,
    settings: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
    step: usize,
}

impl AdamW {
    pub(crate) fn new(gpu: &Gpu, parameters: &Parameters<'_>, schedule: Schedule) -> Result<Self> {
        let settings = gpu.zeros(4);
        let constants = format!("const BETA1: f32 = {BETA1:?};\nconst BETA2: f32 = {BETA2:?};");
        let dispatches = parameters
            .iter()
            .map(|(_, tensor)| {
                let [m, v] = [0, 1].map(|_| gpu.zeros(tensor.len()));
                let quads = tensor.len() / 4;
                // Gains have one row, and aren't drawn to zero.
                let sizes = [quads as u32, u32::from(tensor.rows > 1)];
                gpu.dispatch(
                    (&constants, include_str!("adamw.wgsl")),
                    &sizes,
                    &[&settings, &tensor.gradient, &m, &v, &tensor.values],
                    [quads.div_ceil(WORKGROUP_SIZE), 1],
                )
            })
            .collect::<Result<_>>()?;
        Ok(Self { schedule, settings, dispatches, step: 0 })
    }

    /// Records a step; to be submitted before the next is recorded.
    pub(crate) fn encode(&mut self, gpu: &Gpu, encoder: &mut wgpu::CommandEncoder) {
        let rate = self.schedule.at(self.step);
        self.step += 1;
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(self.step as i32) as f32;
        let settings = [rate, self.schedule.decay, correction(BETA1), correction(BETA2)];
        gpu.write(&self.settings, &settings);
        self.dispatches.iter().for_each(|dispatch| dispatch.encode(encoder));
    }
}
