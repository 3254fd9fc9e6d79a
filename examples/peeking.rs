//! What a token learns of the future when the mask is left out, and why a model that was trained with it can generate
//! step by step.
//!
//! In training the whole target sentence is known and all its positions are computed at once. Without the mask each
//! position could read its own answer off the next token. With it, every row of the parallel pass is what one gets by
//! generating token by token from a growing cache of keys and values: train fast, predict step by step.

mod common;

use std::ops::Range;

use anyhow::Result;
use common::{max_difference, normal};
use wgpu_attention::{Inputs, Layout, Mask, Problem, RunOptions, Session, Shape};

/// What the decoder is given: the target, one step late, so that each position's answer is the next one's input.
const TOKENS: [&str; 6] = ["<start>", "I", "love", "cats", "and", "dogs"];
const T: usize = TOKENS.len();
const HEADS: usize = 2;
const HEAD_DIM: usize = 8;

fn main() -> Result<()> {
    let attention = Session::open_blocking(&Default::default())?;
    who_notices_a_change(&attention)?;
    copying_the_answer(&attention)?;
    generating_step_by_step(&attention)
}

/// Changes one token after the other and looks which outputs change with it.
fn who_notices_a_change(attention: &Session) -> Result<()> {
    // A batch of the same sentence: as it is, then with token 0 changed, with token 1 changed, …
    let shape = Shape::new(1 + T, HEADS, T, HEAD_DIM);
    let sentence = HEADS * T * HEAD_DIM;
    let q = normal(1, sentence).repeat(1 + T);
    let [k, v] = [2, 3].map(|seed| {
        let mut batch = normal(seed, sentence).repeat(1 + T);
        for changed in 0..T {
            for head in 0..HEADS {
                let row = ((1 + changed) * HEADS + head) * T + changed;
                batch[row * HEAD_DIM..][..HEAD_DIM].iter_mut().for_each(|value| *value += 1.0);
            }
        }
        batch
    });

    for (title, mask) in [("Without a mask", Mask::All), ("With the causal mask", Mask::causal())] {
        let problem = Problem::new(shape).mask(mask.clone());
        let inputs = Inputs::new(&q, &k, &v);
        let o = attention.run_blocking(&problem, &inputs, &RunOptions::default())?.o;
        println!("\n{title}, change one token; the outputs that notice:\n");
        for (changed, token) in TOKENS.iter().enumerate() {
            let row = |batch: usize, t: usize| &o[(batch * HEADS * T + t) * HEAD_DIM..][..HEAD_DIM];
            let notices = |&t: &usize| row(0, t) != row(1 + changed, t);
            let seen: Vec<_> = (0..T).filter(notices).collect();
            let names: Vec<_> = seen.iter().map(|&t| TOKENS[t]).collect();
            println!("  {token:<9}-> {}", names.join(" "));
            let first = if mask == Mask::All { 0 } else { changed };
            assert_eq!(seen, (first..T).collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// A layer that cheats: each position looks for the next token and takes what it finds for its prediction.
fn copying_the_answer(attention: &Session) -> Result<()> {
    // Keys and values are the tokens as unit vectors; a query is the unit vector of the token that comes next.
    let unit = |t: usize| (0..T).map(move |d| if d == t { 1.0 } else { 0.0 });
    let tokens: Vec<f32> = (0..T).flat_map(unit).collect();
    let next: Vec<f32> = (1..=T).flat_map(unit).collect();
    let predict = |queries: Range<usize>, known: usize, mask: Mask| -> Result<Vec<Option<usize>>> {
        let shape = Shape::new(1, 1, queries.len(), T).seq_len_kv(known);
        // A large scale makes up its mind.
        let problem = Problem::new(shape).mask(mask).scale(20.0);
        let inputs = Inputs::new(
            &next[queries.start * T..queries.end * T],
            &tokens[..known * T],
            &tokens[..known * T],
        );
        let o = attention.run_blocking(&problem, &inputs, &RunOptions::default())?.o;
        // Where it found nothing, the output is a mixture without a winner.
        Ok(o.chunks(T).map(|row| row.iter().position(|&weight| weight > 0.99)).collect())
    };

    // In training it has all positions at once; in generation the tokens up to its own, since there are no others.
    let peeking = predict(0..T, T, Mask::All)?;
    let masked = predict(0..T, T, Mask::causal())?;
    let generating: Vec<_> =
        (0..T).map(|t| predict(t..t + 1, t + 1, Mask::All)).collect::<Result<Vec<_>>>()?.concat();

    println!("\nA layer that looks for the next token (`?`: it found none) predicts:\n");
    let [no_mask, mask, generation] = ["training, no mask", "training, masked", "generation"];
    println!("  {:<9}{:>10}{no_mask:>20}{mask:>20}{generation:>14}", "input", "answer");
    for t in 0..T - 1 {
        let name = |found: Option<usize>| found.map_or("?", |token| TOKENS[token]);
        let [peeked, honest, generated] = [peeking[t], masked[t], generating[t]].map(name);
        println!("  {:<9}{:>10}{peeked:>20}{honest:>20}{generated:>14}", TOKENS[t], TOKENS[t + 1]);
    }
    assert!((0..T - 1).all(|t| peeking[t] == Some(t + 1)), "every answer is read off");
    // <start> sees nothing but itself, so it is all that it can find.
    assert_eq!(masked[..T - 1], [&[Some(0)][..], &[None; T - 2]].concat());
    assert_eq!(masked, generating);
    println!(
        "\n  Without the mask it is always right in training and has learnt nothing. With the mask, training is"
    );
    println!("  as hard as generation, so that what is learnt there holds here.");
    Ok(())
}

/// The parallel pass against one query at a time over a growing cache.
fn generating_step_by_step(attention: &Session) -> Result<()> {
    // In [batch, seq, heads, dim], a sentence's first t tokens are the first t rows: a cache grows at its end.
    let step = HEADS * HEAD_DIM;
    let [q, k, v] = [1, 2, 3].map(|seed| normal(seed, T * step));
    let attend = |q: &[f32], known: usize, mask: Mask| -> Result<Vec<f32>> {
        let shape = Shape::new(1, HEADS, q.len() / step, HEAD_DIM).seq_len_kv(known);
        let problem = Problem::new(shape).layout(Layout::Bshd).mask(mask);
        let inputs = Inputs::new(q, &k[..known * step], &v[..known * step]);
        Ok(attention.run_blocking(&problem, &inputs, &RunOptions::default())?.o)
    };

    println!("\nThe parallel pass of training against generation with one query per step:\n");
    let parallel = attend(&q, T, Mask::causal())?;
    for t in 0..T {
        let query = &q[t * step..][..step];
        let row = &parallel[t * step..][..step];
        let generated = attend(query, t + 1, Mask::causal())?;
        let difference = max_difference(row, &generated);
        println!("  {:<9}{} keys, largest difference {difference:.1e}", TOKENS[t], t + 1);
        assert!(difference < 1e-5);
    }

    // With one query and many keys, the other alignment has the query stand at the first key, not at the last.
    let last = &q[(T - 1) * step..];
    let upper_left = attend(last, T, Mask::causal_upper_left())?;
    let difference = max_difference(&upper_left, &v[..step]);
    println!(
        "\n  Aligned at the upper left, the last query would see <start> alone, and return its value."
    );
    assert!(difference < 1e-6);
    Ok(())
}
