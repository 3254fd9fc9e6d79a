//! Which mask sits where: an encoder layer and a decoder layer, with multi-head attention as they use it.
//!
//! | attention | queries | keys and values | mask |
//! |---|---|---|---|
//! | encoder, self | source | source | the source's padding; else every word sees every other, left and right |
//! | decoder, self | target | target | look-ahead, and the target's padding |
//! | decoder, cross | target | encoder's output | the source's padding |
//!
//! Around attention a layer is ordinary arithmetic: projections to q, k, v and back, the residual, the norm. It is done
//! on the CPU here, and the feed-forward part is left out, since it looks at each token by itself.

mod common;

use anyhow::Result;
use common::normal;
use wgpu_attention::{AuxData, Inputs, Layout, Mask, Problem, RunOptions, Session, Shape};

const HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const WIDTH: usize = HEADS * HEAD_DIM;

const SOURCE: [&str; 5] = ["I", "love", "cats", "<PAD>", "<PAD>"];
const TARGET: [&str; 4] = ["<start>", "ich", "liebe", "<PAD>"];
const SOURCE_LENGTH: usize = 3;
const TARGET_LENGTH: usize = 3;

/// The outputs of the two layers, a row of `WIDTH` numbers per token.
struct Translation {
    encoded: Vec<f32>,
    decoded: Vec<f32>,
}

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    let (source, target) = (normal(1, SOURCE.len() * WIDTH), normal(2, TARGET.len() * WIDTH));
    let before = translate(&attention, &source, &target)?;

    println!("encoder, self-attention    {}", Mask::KeyLengths);
    println!("decoder, self-attention    {}", decoder_mask());
    println!("decoder, cross-attention   {}", Mask::KeyLengths);
    println!("\nChange one token; the real tokens whose outputs notice:\n");
    println!("  {:<16}{:<20}decoder", "", "encoder");
    for (t, token) in SOURCE.iter().enumerate() {
        let after = translate(&attention, &changed(&source, t), &target)?;
        let (encoder, decoder) = report(&format!("source {token}"), &before, &after);
        if t < SOURCE_LENGTH {
            assert_eq!(encoder, SOURCE[..SOURCE_LENGTH], "an encoder looks left and right");
            assert_eq!(decoder, TARGET[..TARGET_LENGTH], "a decoder knows the whole source");
        } else {
            assert!(encoder.is_empty() && decoder.is_empty(), "nobody looks at padding");
        }
    }
    for (t, token) in TARGET.iter().enumerate() {
        let after = translate(&attention, &source, &changed(&target, t))?;
        let (encoder, decoder) = report(&format!("target {token}"), &before, &after);
        assert!(encoder.is_empty(), "the encoder has done its work before");
        assert_eq!(decoder, TARGET[t.min(TARGET_LENGTH)..TARGET_LENGTH], "no peeking to the right");
    }
    Ok(())
}

fn decoder_mask() -> Mask {
    Mask::causal() & Mask::KeyLengths
}

fn translate(attention: &Session, source: &[f32], target: &[f32]) -> Result<Translation> {
    let source_length = AuxData::new().key_lengths([SOURCE_LENGTH as i32]);
    let target_length = AuxData::new().key_lengths([TARGET_LENGTH as i32]);
    // Each layer's attention has weights of its own: the last number is their seed.
    let encoded = sublayer(attention, source, source, Mask::KeyLengths, &source_length, 10)?;
    let looked_back = sublayer(attention, target, target, decoder_mask(), &target_length, 20)?;
    let decoded =
        sublayer(attention, &looked_back, &encoded, Mask::KeyLengths, &source_length, 30)?;
    Ok(Translation { encoded, decoded })
}

/// Multi-head attention of the rows of `x` over the rows of `y`, then residual and norm.
fn sublayer(
    attention: &Session,
    x: &[f32],
    y: &[f32],
    mask: Mask,
    data: &AuxData,
    seed: u64,
) -> Result<Vec<f32>> {
    let weights = |offset: u64| normal(seed + offset, WIDTH * WIDTH);
    let (q, k, v) = (project(x, &weights(0)), project(y, &weights(1)), project(y, &weights(2)));
    // In [batch, seq, heads, dim] a row of WIDTH numbers is its heads side by side: nothing to split, nothing to join.
    let shape = Shape::new(1, HEADS, x.len() / WIDTH, HEAD_DIM).seq_len_kv(y.len() / WIDTH);
    let problem = Problem::new(shape).layout(Layout::Bshd).mask(mask);
    let inputs = Inputs::new(&q, &k, &v).aux(data);
    let o = attention.run_blocking(&problem, &inputs, &RunOptions::default())?.o;

    let residual: Vec<f32> =
        project(&o, &weights(3)).iter().zip(x).map(|(new, old)| new + old).collect();
    Ok(residual.chunks(WIDTH).flat_map(norm).collect())
}

/// Each row times a matrix of `WIDTH` × `WIDTH`, scaled so that numbers keep their size.
fn project(rows: &[f32], matrix: &[f32]) -> Vec<f32> {
    let column = |row: &[f32], j: usize| -> f32 {
        let sum: f32 = row.iter().zip(matrix[j..].iter().step_by(WIDTH)).map(|(x, w)| x * w).sum();
        sum / (WIDTH as f32).sqrt()
    };
    rows.chunks(WIDTH).flat_map(|row| (0..WIDTH).map(move |j| column(row, j))).collect()
}

/// LayerNorm without learnt parameters.
fn norm(row: &[f32]) -> Vec<f32> {
    let mean = row.iter().sum::<f32>() / WIDTH as f32;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / WIDTH as f32;
    row.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt()).collect()
}

fn changed(tokens: &[f32], t: usize) -> Vec<f32> {
    let mut tokens = tokens.to_vec();
    tokens[t * WIDTH..][..WIDTH].copy_from_slice(&normal(99, WIDTH));
    tokens
}

/// Prints and returns the real tokens whose outputs differ, of the encoder and of the decoder.
fn report(
    what: &str,
    before: &Translation,
    after: &Translation,
) -> (Vec<&'static str>, Vec<&'static str>) {
    let encoder = differing(&SOURCE[..SOURCE_LENGTH], &before.encoded, &after.encoded);
    let decoder = differing(&TARGET[..TARGET_LENGTH], &before.decoded, &after.decoded);
    let line = format!("  {what:<16}{:<20}{}", encoder.join(" "), decoder.join(" "));
    println!("{}", line.trim_end());
    (encoder, decoder)
}

fn differing(tokens: &[&'static str], before: &[f32], after: &[f32]) -> Vec<&'static str> {
    let rows = before.chunks(WIDTH).zip(after.chunks(WIDTH));
    tokens
        .iter()
        .zip(rows)
        .filter(|(_, (before, after))| before != after)
        .map(|(t, _)| *t)
        .collect()
}
