//! From raw scores to masked scores to probabilities: what the mask does inside attention, and why it adds −∞.
//!
//! Random scores of five tokens pass through the three stages that attention computes:
//! scores = q kᵀ · scale, masked = scores + mask, probabilities = softmax(masked). The forward pass never stores them;
//! the crate makes them on request, from the same scores and the same mask.

mod common;

use anyhow::Result;
use common::{max_difference, normal, print_matrix};
use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{Inputs, Mask, Problem, RunOptions, Session, Shape};

const TOKENS: [&str; 5] = ["A", "B", "C", "D", "E"];
const T: usize = TOKENS.len();

/// What attention makes of given scores.
struct Stages {
    scores: Vec<f32>,
    masked: Vec<f32>,
    weights: Vec<f32>,
    o: Vec<f32>,
}

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    let raw = normal(5, T * T);
    let stages = attend(&attention, Mask::causal(), &raw)?;
    print_matrix("Raw scores:", &TOKENS, &TOKENS, &stages.scores);
    print_matrix("Masked scores, the future blocked:", &TOKENS, &TOKENS, &stages.masked);
    print_matrix("Probabilities, after softmax:", &TOKENS, &TOKENS, &stages.weights);

    assert_eq!(stages.scores, raw, "times one, a score stays what it was");
    check_probabilities(&stages.weights);
    // The values are the unit vectors, so each output is its row of weights: the fused pass agrees with the picture.
    assert!(max_difference(&stages.o, &stages.weights) < 1e-5);
    println!("\nEvery row sums to 1, and above the diagonal each weight is exactly 0.");

    why_not_zero(&attention, &raw, &stages)
}

/// Attention in which q holds the scores themselves: the keys are unit vectors, so that q kᵀ = q. The values are, too.
fn attend(attention: &Session, mask: Mask, raw: &[f32]) -> Result<Stages> {
    let unit: Vec<f32> = (0..T * T).map(|at| if at / T == at % T { 1.0 } else { 0.0 }).collect();
    let problem = Problem::new(Shape::new(1, 1, T, T)).mask(mask).scale(1.0);
    let inputs = Inputs::new(raw, &unit, &unit);
    let outputs = RunOptions::default().tensors(ScoreTensor::ALL.to_vec());
    let output = attention.run_blocking(&problem, &inputs, &outputs)?;
    let [scores, masked, weights] =
        output.tensors.try_into().expect("the three that were asked for");
    Ok(Stages { scores, masked, weights, o: output.o })
}

fn check_probabilities(weights: &[f32]) {
    for (q_idx, row) in weights.chunks(T).enumerate() {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "row {q_idx} sums to 1");
        assert!(row[..=q_idx].iter().all(|&weight| weight > 0.0));
        assert!(row[q_idx + 1..].iter().all(|&weight| weight == 0.0), "row {q_idx} has no future");
    }
}

/// Two tempting shortcuts, with numbers.
fn why_not_zero(attention: &Session, raw: &[f32], right: &Stages) -> Result<()> {
    println!("\nWhy −∞, and not simply zeros? What the five tokens would look at:");

    // A score of 0 is a score like any other: e⁰ = 1 goes into the softmax.
    let zeroed: Vec<f32> = raw
        .iter()
        .enumerate()
        .map(|(at, &score)| if is_future(at) { 0.0 } else { score })
        .collect();
    let zeroed_scores = attend(attention, Mask::All, &zeroed)?.weights;

    // The future has taken its share of the sum already, and what is left of the row no longer adds up to 1.
    let mut zeroed_weights = attend(attention, Mask::All, raw)?.weights;
    zeroed_weights
        .iter_mut()
        .enumerate()
        .filter(|(at, _)| is_future(*at))
        .for_each(|(_, w)| *w = 0.0);

    println!("\n  {:<28}{:>15}{:>15}{:>15}", "", "zeroed before", "zeroed after", "-inf before");
    println!("  {:<28}{:>15}{:>15}{:>15}", "", "softmax", "softmax", "softmax");
    let columns = [&zeroed_scores, &zeroed_weights, &right.weights];
    for (q_idx, token) in TOKENS.iter().enumerate() {
        let [before, after, masked] = columns.map(|weights| future_share(weights, q_idx));
        let name = format!("{token}: share of the future");
        println!(
            "  {name:<28}{:>14.0}%{:>14.0}%{:>14.0}%",
            100.0 * before,
            100.0 * after,
            100.0 * masked
        );
        assert_eq!(before > 0.0, q_idx + 1 < T, "zeroed scores leak wherever there is a future");
        assert_eq!(masked, 0.0);
    }
    let first_rows = columns.map(|weights| weights[..T].iter().sum::<f32>());
    println!(
        "  {:<28}{:>15.2}{:>15.2}{:>15.2}",
        "A: sum of the weights", first_rows[0], first_rows[1], first_rows[2]
    );
    assert!(first_rows[1] < 0.9 && (first_rows[2] - 1.0).abs() < 1e-5);
    println!(
        "\nOnly −∞ before the softmax leaves no weight to the future and a whole distribution to the past."
    );
    Ok(())
}

fn is_future(cell: usize) -> bool {
    cell % T > cell / T
}

/// How much of a row's weight lies above the diagonal.
fn future_share(weights: &[f32], q_idx: usize) -> f32 {
    weights[q_idx * T + q_idx + 1..(q_idx + 1) * T].iter().fold(0.0, |sum, weight| sum + weight)
}
