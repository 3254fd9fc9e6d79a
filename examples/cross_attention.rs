//! Cross-attention: a decoder reads what an encoder made of another sentence, but not that sentence's padding.
//!
//! Queries come from the decoder, keys and values from the encoder's output, so there are as many rows as target tokens
//! and as many columns as source tokens. Here the padding mask is the encoder's, and nothing is causal: the whole source
//! is known from the start. The padding is filled with NaN, and none of it comes through.

mod common;

use anyhow::Result;
use common::{max_difference, normal, print_matrix};
use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{
    AuxData, Inputs, Mask, Output, Problem, RunOptions, Session, Shape, reference,
};

const PAD: &str = "<PAD>";
const SOURCES: [[&str; 6]; 2] =
    [["The", "cat", "sat", "on", "the", "mat"], ["Dogs", "bark", "loudly", PAD, PAD, PAD]];
const TARGETS: [[&str; 4]; 2] =
    [["Die", "Katze", "saß", "da"], ["Hunde", "bellen", "sehr", "laut"]];
const HEADS: usize = 2;
const HEAD_DIM: usize = 8;

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    let shape = Shape::new(2, HEADS, TARGETS[0].len(), HEAD_DIM).seq_len_kv(SOURCES[0].len());
    let problem = Problem::new(shape).mask(Mask::KeyLengths);
    let lengths = AuxData::new().key_lengths(SOURCES.map(real_tokens));

    let q = normal(1, shape.q_len()?);
    let clean = [normal(2, shape.k_len()?), normal(3, shape.v_len()?)];
    let hostile = clean.clone().map(fill_padding);
    let run = |problem: &Problem, [k, v]: &[Vec<f32>; 2]| {
        let inputs = Inputs::new(&q, k, v).aux(&lengths);
        let outputs = RunOptions::default().tensors(vec![ScoreTensor::Weights]);
        attention.run_blocking(problem, &inputs, &outputs)
    };

    let Output { o, tensors, .. } = run(&problem, &hostile)?;
    // From [batch, heads, targets, sources], each sentence's first head.
    let cells = TARGETS[0].len() * SOURCES[0].len();
    for (b, (target, source)) in TARGETS.iter().zip(&SOURCES).enumerate() {
        let weights = &tensors[0][b * HEADS * cells..][..cells];
        let title = format!("\"{}\" looks at \"{}\":", target.join(" "), source.join(" "));
        print_matrix(&title, target, source, weights);
    }

    let dogs = tensors[0][HEADS * cells..].chunks(SOURCES[1].len());
    assert!(dogs.clone().all(|row| row[3..] == [0.0; 3]), "padding has no weight");
    assert!(o.iter().all(|value| value.is_finite()));
    assert_eq!(o, run(&problem, &clean)?.o);
    println!(
        "\nThe padding holds NaN and infinities; the output is that of a clean batch, bit by bit."
    );

    let unmasked = run(&Problem::new(shape), &hostile)?.o;
    let spoilt = unmasked.iter().filter(|value| value.is_nan()).count();
    println!("Without the mask, {spoilt} of {} outputs are NaN.", unmasked.len());
    assert_eq!(spoilt, unmasked.len() / 2, "all of the second sentence");

    let inputs = Inputs::new(&q, &clean[0], &clean[1]).aux(&lengths);
    let truth: Vec<f32> =
        reference::attention(&problem, &inputs)?.o.into_iter().map(|value| value as f32).collect();
    let error = max_difference(&o, &truth);
    println!("Largest difference from attention in f64: {error:.1e}");
    assert!(error < 1e-5);
    Ok(())
}

fn real_tokens(sentence: [&str; 6]) -> i32 {
    sentence.iter().filter(|&&token| token != PAD).count() as i32
}

/// Puts the worst there is into the padded rows of `[batch, heads, sources, head_dim]`.
fn fill_padding(mut tensor: Vec<f32>) -> Vec<f32> {
    let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
    for (row, values) in tensor.chunks_mut(HEAD_DIM).enumerate() {
        let [batch, source] = [row / SOURCES[0].len() / HEADS, row % SOURCES[0].len()];
        if SOURCES[batch][source] == PAD {
            values.iter_mut().zip(hostile.iter().cycle()).for_each(|(value, &bad)| *value = bad);
        }
    }
    tensor
}
