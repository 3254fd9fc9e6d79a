//! The weights of all heads of a layer on one sentence.

use serde::{Deserialize, Serialize};
use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{AuxData, Inputs, Mask, Problem, Result, RunOptions, Session, reference};

use crate::playground::{Sequences, operand};

/// What is to be shown.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Request {
    pub(crate) layer: u32,
    sequence: usize,
    /// Whether keys that are padding are masked.
    masked: bool,
}

/// Weights of every head, `[num_heads, seq_len, seq_len]`, and what they tell.
#[derive(Debug)]
pub(crate) struct Heads {
    pub(crate) weights: Vec<f32>,
    pub(crate) summary: Summary,
}

/// Numbers about the heads.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    tokens: Vec<String>,
    length: usize,
    heads: Vec<Head>,
}

/// Where a head's weight goes: means over the sentence's own tokens.
#[derive(Debug, Serialize)]
struct Head {
    /// To padding.
    padding: f32,
    /// What draws most among the token itself, the one before, the one after, the first and the last one.
    most: &'static str,
    share: f32,
}

/// Computes the weights.
///
/// # Errors
/// Where there is no such sentence, and what the device reported.
pub(crate) async fn heads(
    request: &Request,
    sequences: &Sequences,
    session: Option<&Session>,
) -> Result<Heads> {
    let shape = sequences.shape;
    if request.sequence >= shape.batch {
        return Err(operand("sentence", format!("below {}", shape.batch), request.sequence));
    }
    let lengths = sequences.lengths.iter().map(|&length| length as i32);
    let (mask, data) = match request.masked {
        true => (Mask::KeyLengths, AuxData::new().key_lengths(lengths)),
        false => (Mask::All, AuxData::new()),
    };
    let problem = Problem::new(shape).mask(mask);
    let inputs = Inputs::new(&sequences.q, &sequences.k, &sequences.v).aux(&data);
    let all = match session {
        Some(session) => {
            let options = RunOptions::default().tensors([ScoreTensor::Weights]);
            session.run(&problem, &inputs, &options).await?.tensors.pop().unwrap_or_default()
        }
        None => {
            let truth = reference::attention(&problem, &inputs)?;
            truth.weights.iter().map(|&x| x as f32).collect()
        }
    };
    let (keys, length) = (shape.seq_len_kv, sequences.lengths[request.sequence]);
    let each = shape.num_heads * keys * keys;
    let weights = all[request.sequence * each..][..each].to_vec();
    let heads = weights.chunks(keys * keys).map(|head| describe(head, keys, length)).collect();
    let tokens = sequences.tokens[request.sequence].clone();
    Ok(Heads { weights, summary: Summary { tokens, length, heads } })
}

fn describe(weights: &[f32], keys: usize, length: usize) -> Head {
    let mean =
        |weight: &dyn Fn(usize) -> f32| (0..length).map(weight).sum::<f32>() / length.max(1) as f32;
    let at = |query: usize, key: usize| weights[query * keys + key];
    let padding = mean(&|query| (length..keys).map(|key| at(query, key)).sum());
    let shares = [
        ("itself", mean(&|query| at(query, query))),
        ("the token before", mean(&|query| if query > 0 { at(query, query - 1) } else { 0.0 })),
        (
            "the token after",
            mean(&|query| if query + 1 < length { at(query, query + 1) } else { 0.0 }),
        ),
        ("the first token", mean(&|query| at(query, 0))),
        ("the last token", mean(&|query| at(query, length - 1))),
    ];
    let (most, share) = shares
        .into_iter()
        .fold(("", 0.0), |best, share| if share.1 > best.1 { share } else { best });
    Head { padding, most, share }
}
