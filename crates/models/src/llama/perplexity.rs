//! How well the model foresees a text.

use anyhow::{Result, ensure};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{Dtype, KvCache};

use super::{Llama, Rows, Stage};

/// Tokens of a pass.
const CHUNK: usize = 512;

/// e to the mean loss of every token but the first, each seen with all before it, in a cache of this type. `progress` is told
/// how many tokens are done.
///
/// # Errors
/// Where there are fewer than 2 tokens or more than the model's context, or the device fails.
pub fn perplexity(
    model: &Llama<'_>,
    tokens: &[u32],
    dtype: Dtype,
    mut progress: impl FnMut(usize),
) -> Result<f64> {
    ensure!(
        (2..=model.context()).contains(&tokens.len()),
        "{} tokens, where 2 to {} are expected",
        tokens.len(),
        model.context()
    );
    let gpu = model.gpu();
    let shape = model.cache_shape(1, tokens.len(), dtype);
    let mut caches = model.caches(&shape)?;
    let mut sum = 0.0;
    let mut stage: Option<Stage<'_>> = None;
    let mut done = 0;
    for chunk in tokens.chunks(CHUNK) {
        let pass = match stage.take_if(|stage| stage.logits().rows == chunk.len()) {
            Some(pass) => pass,
            None => {
                let uniform = QuerySequences::Uniform;
                Stage::new(model, &shape, chunk.len(), uniform, Rows::All, 0.0)?
            }
        };
        done += chunk.len();
        // Nothing follows the last token, whose loss has the weight 0.
        let next = |at: usize| tokens.get(done - chunk.len() + at + 1).copied();
        let labels: Vec<u32> = (0..chunk.len()).map(|at| next(at).unwrap_or(0)).collect();
        let weights: Vec<f32> =
            (0..chunk.len()).map(|at| if next(at).is_some() { 1.0 } else { 0.0 }).collect();
        sum += loss(gpu, &pass, &mut caches, chunk, (&labels, &weights))?;
        stage = Some(pass);
        progress(done);
    }
    Ok((sum / (tokens.len() - 1) as f64).exp())
}

/// The sum of the losses of a pass.
fn loss(
    gpu: &operators::Gpu,
    pass: &Stage<'_>,
    caches: &mut [KvCache],
    tokens: &[u32],
    (labels, weights): (&[u32], &[f32]),
) -> Result<f64> {
    let losses = gpu.zeros(tokens.len());
    let per_row = [&gpu.upload(labels), &gpu.upload(weights), &gpu.zeros(tokens.len()), &losses];
    let measure = gpu.cross_entropy(pass.logits(), per_row)?;
    pass.write(tokens)?;
    let mut encoder = gpu.encoder();
    pass.encode(&mut encoder, caches, None)?;
    measure.encode(&mut encoder);
    gpu.submit(encoder);
    Ok(gpu.read(&losses, tokens.len())?.iter().map(|&loss| f64::from(loss)).sum())
}
