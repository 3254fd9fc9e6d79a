//! Reformer's mask: where queries and keys are the same vectors, a token must not look at itself.
//!
//! Reformer shares q and k. Nothing is as similar to a vector as itself, so each token would give most of its attention
//! to itself and learn nothing from the others. The causal form has a catch: the first token has nobody else. It may
//! look at itself, as the only one: `self_only_if_alone(causal)`.

mod common;

use anyhow::Result;
use common::{max_difference, normal, print_matrix};
use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{Inputs, Mask, Problem, RunOptions, Session, Shape};

const TOKENS: [&str; 6] = ["the", "pupil", "writes", "an", "own", "answer"];
const T: usize = TOKENS.len();
const HEAD_DIM: usize = 16;

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;

    let all = weights(&attention, &Mask::All)?;
    assert!(mean_self_weight(&all) > 0.5);
    let others = weights(&attention, &Mask::NotSelf)?;
    assert_eq!(mean_self_weight(&others), 0.0);

    // With the causal mask, excluding oneself leaves the first token nothing at all …
    let past = weights(&attention, &(Mask::causal() & Mask::NotSelf))?;
    assert_eq!(past[..T], [0.0; T]);
    // … and this mask makes the one exception that it needs.
    let reformer = weights(&attention, &Mask::causal().self_only_if_alone())?;
    assert_eq!(reformer[0], 1.0);
    assert!(max_difference(&reformer[T..], &past[T..]) < 1e-5, "all other rows are the same");
    Ok(())
}

/// Prints and returns the weights of a sequence whose queries are its keys.
fn weights(attention: &Session, mask: &Mask) -> Result<Vec<f32>> {
    let shape = Shape::new(1, 1, T, HEAD_DIM);
    let shared = normal(7, shape.q_len()?);
    let v = normal(8, shape.v_len()?);
    let inputs = Inputs::new(&shared, &shared, &v);
    let outputs = RunOptions::default().tensors(vec![ScoreTensor::Weights]);
    let problem = Problem::new(shape).mask(mask.clone());
    let weights = attention.run_blocking(&problem, &inputs, &outputs)?.tensors.remove(0);
    print_matrix(&format!("q = k, `{mask}`:"), &TOKENS, &TOKENS, &weights);
    println!(
        "\n  a token's attention to itself: {:.0}% on average",
        100.0 * mean_self_weight(&weights)
    );
    Ok(weights)
}

fn mean_self_weight(weights: &[f32]) -> f32 {
    weights.iter().step_by(T + 1).sum::<f32>() / T as f32
}
