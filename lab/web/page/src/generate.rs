//! All positions at once under a causal mask, and the same one token at a time with a cache that grows.

use serde::{Deserialize, Serialize};
use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
use wgpu_attention::plan::{InspectBuffers, InspectPlan, ScoreTensor};
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention::{
    AttentionBuffers, AttentionPlan, AuxBuffers, Inputs, KvCache, Mask, Problem, Result,
    RunOptions, Session, Shape, reference,
};

use crate::gpu::{output, submit, upload};
use crate::playground::{Sequences, Source, operand};

/// What is to be shown.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Request {
    /// A mask that reads no data and never keeps a later key.
    mask: String,
    pub(crate) source: Source,
    sequence: usize,
    head: usize,
}

/// Both ways, of one head.
#[derive(Debug)]
pub(crate) struct Both {
    /// Weights of all positions at once, `[seq_len, seq_len]`.
    pub(crate) at_once: Vec<f32>,
    /// Those without the mask.
    pub(crate) unmasked: Vec<f32>,
    /// Row by row, as each step had it; 0 behind its own position.
    pub(crate) in_steps: Vec<f32>,
    /// o of all positions at once, `[seq_len, head_dim]`, and in steps.
    pub(crate) o_at_once: Vec<f32>,
    pub(crate) o_in_steps: Vec<f32>,
    pub(crate) summary: Summary,
}

/// Their numbers.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    tokens: Vec<String>,
    head_dim: usize,
    /// The largest difference of o between both ways.
    difference: f32,
    /// The largest component of o.
    largest: f32,
}

/// One sequence without its padding, with all heads.
struct Sequence {
    heads: usize,
    len: usize,
    dim: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Computes both ways.
///
/// # Errors
/// Where the mask or the sequence doesn't fit, and what the device reported.
pub(crate) async fn both(
    request: &Request,
    sequences: &Sequences,
    session: Option<&Session>,
) -> Result<Both> {
    let mask: Mask = request.mask.parse()?;
    if !mask.aux_tensors().is_empty() {
        return Err(operand("mask", "one that reads no data", &mask));
    }
    let Shape { batch, num_heads: heads, seq_len_q: padded, head_dim: dim, .. } = sequences.shape;
    for (name, most, found) in
        [("sequence", batch, request.sequence), ("head", heads, request.head)]
    {
        if found >= most {
            return Err(operand(name, format!("below {most}"), found));
        }
    }
    let len = sequences.lengths[request.sequence];
    let own = |values: &[f32]| -> Vec<f32> {
        let sequence = values.chunks(heads * padded * dim).nth(request.sequence).unwrap_or(&[]);
        sequence.chunks(padded * dim).flat_map(|head| head[..len * dim].to_vec()).collect()
    };
    let (q, k, v) = (own(&sequences.q), own(&sequences.k), own(&sequences.v));
    let sequence = Sequence { heads, len, dim, q, k, v };
    let shape = Shape::new(1, heads, len, dim);
    let inputs = Inputs::new(&sequence.q, &sequence.k, &sequence.v);
    let whole = Problem::new(shape).mask(mask.clone());
    let (o, weights) = weights_of(session, &whole, &inputs).await?;
    let (_, unmasked) = weights_of(session, &Problem::new(shape), &inputs).await?;
    let (o_steps, in_steps) = match session {
        Some(session) => steps_on_device(session, &sequence, &mask, request.head).await?,
        None => steps_by_reference(&sequence, &mask, request.head)?,
    };
    let head = |values: &[f32], each: usize| values[request.head * each..][..each].to_vec();
    let o_at_once = head(&o, len * dim);
    let difference = o_at_once.iter().zip(&o_steps).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    let largest = o_at_once.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let tokens = sequences.tokens[request.sequence][..len].to_vec();
    Ok(Both {
        at_once: head(&weights, len * len),
        unmasked: head(&unmasked, len * len),
        in_steps,
        o_at_once,
        o_in_steps: o_steps,
        summary: Summary { tokens, head_dim: dim, difference, largest },
    })
}

/// o and weights of all heads.
async fn weights_of(
    session: Option<&Session>,
    problem: &Problem,
    inputs: &Inputs<'_>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    if let Some(session) = session {
        let options = RunOptions::default().tensors([ScoreTensor::Weights]);
        let mut output = session.run(problem, inputs, &options).await?;
        return Ok((output.o, output.tensors.pop().unwrap_or_default()));
    }
    let truth = reference::attention(problem, inputs)?;
    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
    Ok((narrow(&truth.o), narrow(&truth.weights)))
}

impl Sequence {
    /// Rows `from..to` of every head.
    fn rows(&self, values: &[f32], from: usize, to: usize) -> Vec<f32> {
        let heads = values.chunks(self.len * self.dim);
        heads.flat_map(|head| head[from * self.dim..to * self.dim].to_vec()).collect()
    }
}

/// Appends a token and attends from it, step after step; nothing is read back in between.
async fn steps_on_device(
    session: &Session,
    sequence: &Sequence,
    mask: &Mask,
    head: usize,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let &Sequence { heads, len, dim, .. } = sequence;
    let kernels = session.kernels();
    let shape = CacheShape::new(1, heads, len, dim);
    let mut cache = KvCache::new(kernels, &shape)?;
    let append = AppendPlan::new(kernels, &shape, &NewTokens::new(1))?;
    let problem = shape.problem(heads, 1, QuerySequences::Uniform).mask(mask.clone());
    let attention = AttentionPlan::new(kernels, &problem, &Default::default())?;
    let inspect = InspectPlan::new(kernels, &problem)?;
    let mut outputs = Vec::new();
    for step in 0..len {
        let row = |values: &[f32]| upload(session, &sequence.rows(values, step, step + 1));
        let (q, k, v) = (row(&sequence.q), row(&sequence.k), row(&sequence.v));
        let (o, weights) = (output(session, heads * dim), output(session, heads * len));
        submit(session, |encoder| -> Result<()> {
            append.encode(encoder, &mut cache, &AppendBuffers::new(k.slice(..), v.slice(..)))?;
            let lengths = cache.aux_buffers(AuxBuffers::new());
            let buffers = AttentionBuffers {
                q: q.slice(..),
                k: cache.k(),
                v: cache.v(),
                aux: lengths.clone(),
                o: o.slice(..),
                lse: None,
            };
            attention.encode(encoder, &buffers)?;
            let buffers = InspectBuffers {
                q: q.slice(..),
                k: cache.k(),
                aux: lengths,
                output: weights.slice(..),
            };
            inspect.encode(encoder, ScoreTensor::Weights, &buffers)
        })?;
        outputs.push((o, weights));
    }
    let (mut o, mut weights) = (Vec::new(), Vec::new());
    for (o_buffer, weights_buffer) in outputs {
        o.extend_from_slice(&session.read(&o_buffer, heads * dim).await?[head * dim..][..dim]);
        let row = session.read(&weights_buffer, heads * len).await?;
        weights.extend_from_slice(&row[head * len..][..len]);
    }
    kernels.settle().await?;
    Ok((o, weights))
}

/// Each step a problem of its own: one query over the keys so far.
fn steps_by_reference(
    sequence: &Sequence,
    mask: &Mask,
    head: usize,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let &Sequence { heads, len, dim, .. } = sequence;
    let (mut o, mut weights) = (Vec::new(), Vec::new());
    for step in 0..len {
        let q = sequence.rows(&sequence.q, step, step + 1);
        let k = sequence.rows(&sequence.k, 0, step + 1);
        let v = sequence.rows(&sequence.v, 0, step + 1);
        let shape = Shape::new(1, heads, 1, dim).seq_len_kv(step + 1);
        let problem = Problem::new(shape).mask(mask.clone());
        let truth = reference::attention(&problem, &Inputs::new(&q, &k, &v))?;
        o.extend(truth.o[head * dim..][..dim].iter().map(|&x| x as f32));
        let row = &truth.weights[head * (step + 1)..][..step + 1];
        weights
            .extend(row.iter().map(|&x| x as f32).chain(std::iter::repeat_n(0.0, len - step - 1)));
    }
    Ok((o, weights))
}
