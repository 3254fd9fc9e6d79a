//! Both masks at once: no token sees the future, and none sees padding.
//!
//! They serve different purposes, and a decoder's batch needs both: `causal & key_lengths`. With padding on the left,
//! as in batched generation, the first rows then keep nothing at all; this is where "very negative numbers" instead of
//! −∞ go wrong.

mod common;

use anyhow::Result;
use common::{max_difference, normal, print_matrix};
use wgpu_attention::plan::{MaskFormat, ScoreTensor};
use wgpu_attention::{AuxData, Inputs, Mask, Output, Problem, RunOptions, Session, Shape};

const SEQ: usize = 3;
const HEAD_DIM: usize = 4;
const PAD: &str = "[PAD]";
const CATS: [&str; SEQ] = ["I", "love", "cats"];

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;

    // A mask is an expression, and its text parses.
    let right_padded: Mask = "causal & key_lengths".parse()?;
    assert_eq!(right_padded, Mask::causal() & Mask::KeyLengths);
    let lengths = AuxData::new().key_lengths([3, 2]);
    let dogs = ["Dogs", "are", PAD];
    let masks = keep_masks(&attention, &right_padded, &lengths)?;
    print_matrix(&format!("`{right_padded}`, nothing padded:"), &CATS, &CATS, &masks[0]);
    print_matrix(&format!("`{right_padded}`, padding on the right:"), &dogs, &dogs, &masks[1]);
    assert_eq!(masks[0], [1., 0., 0., 1., 1., 0., 1., 1., 1.]);
    assert_eq!(masks[1], [1., 0., 0., 1., 1., 0., 1., 1., 0.]);

    let left_padded = Mask::causal() & Mask::KeyPadding;
    let flags = AuxData::new().key_padding([true, true, true, false, true, true]);
    let dogs = [PAD, "Dogs", "are"];
    let masks = keep_masks(&attention, &left_padded, &flags)?;
    print_matrix(&format!("`{left_padded}`, padding on the left:"), &dogs, &dogs, &masks[1]);
    assert_eq!(masks[1], [0., 0., 0., 0., 1., 0., 0., 1., 1.]);

    rows_that_keep_nothing(&attention, &left_padded, &flags)
}

/// The mask of each of the batch's two sentences.
fn keep_masks(attention: &Session, mask: &Mask, data: &AuxData) -> Result<[Vec<f32>; 2]> {
    let problem = Problem::new(Shape::new(2, 1, SEQ, HEAD_DIM)).mask(mask.clone());
    let mask = attention.materialize_blocking(&problem, data, MaskFormat::Keep)?;
    assert_eq!(mask.dims, [2, 1, SEQ, SEQ]);
    let (first, second) = mask.values.split_at(SEQ * SEQ);
    Ok([first.to_vec(), second.to_vec()])
}

/// The [PAD] that stands first may look at itself alone, and must not: it gets zeros, not NaN and not an average.
fn rows_that_keep_nothing(attention: &Session, mask: &Mask, flags: &AuxData) -> Result<()> {
    let shape = Shape::new(2, 1, SEQ, HEAD_DIM);
    let len = shape.q_len()?;
    let (q, k, v) = (normal(1, len), normal(2, len), normal(3, len));
    let inputs = Inputs::new(&q, &k, &v).aux(flags);
    let outputs = RunOptions::default().lse(true).tensors(vec![ScoreTensor::Weights]);
    let problem = Problem::new(shape).mask(mask.clone());
    let Output { o, lse, tensors, .. } = attention.run_blocking(&problem, &inputs, &outputs)?;

    let (weights, empty_row) = (&tensors[0][SEQ * SEQ..], &o[SEQ * HEAD_DIM..][..HEAD_DIM]);
    let rows = [PAD, "Dogs", "are"];
    print_matrix("Weights of the second sentence:", &rows, &rows, weights);
    println!("\n  The first row keeps no key: o = {empty_row:?}, lse = {}", lse[SEQ]);
    assert_eq!(empty_row, [0.0; HEAD_DIM]);
    assert_eq!(lse[SEQ], f32::NEG_INFINITY);
    assert!(o.iter().all(|value| value.is_finite()));

    // What a mask of -1e9 makes of such a row: all its scores are the same, so its weights are, too.
    let common_mistake = softmax(&[-1e9; SEQ]);
    println!("  Masked with -1e9 it would spread over what it mustn't see: {common_mistake:.2?}");
    println!(
        "  Masked with -inf the plain formula divides 0 by 0: {:?}",
        softmax(&[f32::NEG_INFINITY; SEQ])
    );
    assert!(max_difference(&common_mistake, &[1.0 / 3.0; SEQ]) < 1e-6);
    Ok(())
}

/// The textbook softmax.
fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<_> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.iter().map(|exponential| exponential / sum).collect()
}
