//! Trains an encoder–decoder that reads number words and writes digits, and shows what each of its masks does.
//!
//! `three hundred forty two thousand seven` is `342007`. Sources have 1 to 9 words and targets 1 to 6 digits, padded to
//! one length per batch: so the encoder and the cross-attention have a padding mask, and the decoder's self-attention a
//! causal and a padding mask. Training is teacher-forced, on all positions at once; translation goes token by token over a
//! cache. The table at the end tells how many numbers that training never saw come out right, digit for digit, with all
//! masks and with each one left out.
//!
//! `--check-gradients` compares the gradients of every operation with finite differences.

#[path = "../nn/mod.rs"]
mod nn;

mod numbers;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use clap::Parser;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use nn::adamw::{AdamW, Schedule};
use nn::parameters::Parameters;
use nn::progress::Progress;
use nn::seq2seq::{END, Masks, PAD, Sizes, Trainer, Translator};
use nn::tape::Tape;
use numbers::{digits, held_out, random_number, words};
use operators::Gpu;

const SIZES: Sizes = Sizes {
    batch: 64,
    source_vocabulary: numbers::WORD_TOKENS,
    source_length: numbers::MOST_WORDS + 1,
    target_vocabulary: numbers::DIGIT_TOKENS,
    target_length: numbers::MOST_DIGITS + 1,
};

#[derive(Parser)]
#[command(about = "Train an encoder-decoder and see what each of its masks does")]
struct Arguments {
    /// Steps of training.
    #[arg(long, default_value_t = 600)]
    steps: usize,

    /// Where everything random starts.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// How many held-out numbers to translate.
    #[arg(long, default_value_t = 1024)]
    pairs: usize,

    /// Compare the gradients of every operation with finite differences, and stop.
    #[arg(long)]
    check_gradients: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let gpu = Gpu::open()?;
    println!("device: {}", gpu.name());
    if arguments.check_gradients {
        println!("gradients against finite differences:");
        return nn::gradients::check(&gpu);
    }
    let test = test_numbers(arguments.seed, arguments.pairs.next_multiple_of(SIZES.batch));
    let masked = train(&gpu, &arguments, Masks::ALL, &test)?;
    let peeking = train(&gpu, &arguments, Masks { causal: false, ..Masks::ALL }, &test)?;
    compare(&gpu, masked, peeking, &test)
}

/// A trained model, and how many tokens it guesses right when it is given the ones before.
struct Trained<'g> {
    parameters: Parameters<'g>,
    teacher_forced: f64,
}

/// Held-out numbers, each once, in random order.
fn test_numbers(seed: u64, count: usize) -> Vec<u32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed + 1_000);
    let (mut seen, mut numbers) = (BTreeSet::new(), Vec::new());
    while numbers.len() < count {
        let number = random_number(&mut random);
        if held_out(number) && seen.insert(number) {
            numbers.push(number);
        }
    }
    numbers
}

fn train<'g>(
    gpu: &'g Gpu,
    arguments: &Arguments,
    masks: Masks,
    test: &[u32],
) -> Result<Trained<'g>> {
    let name = if masks.causal { "translate" } else { "translate, without the causal mask" };
    let mut parameters = Parameters::random(gpu, arguments.seed);
    let model = Trainer::new(Tape::for_training(gpu), &mut parameters, SIZES, masks)?;
    let schedule = Schedule { rate: 2e-3, decay: 0.01, warmup: 50, steps: arguments.steps };
    let mut optimizer = AdamW::new(gpu, &parameters, schedule)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(arguments.seed);
    let progress = Progress::new(name, arguments.steps);
    let (mut first, mut last) = (f32::NAN, f32::NAN);
    for step in 0..arguments.steps {
        let numbers: Vec<u32> = std::iter::repeat_with(|| random_number(&mut random))
            .filter(|number| !held_out(*number))
            .take(SIZES.batch)
            .collect();
        write(&model, &numbers);
        let mut encoder = gpu.encoder();
        model.tape.encode(&mut encoder)?;
        model.tape.encode_zero_gradients(&mut encoder);
        model.tape.encode_backward(&mut encoder)?;
        optimizer.encode(gpu, &mut encoder);
        gpu.submit(encoder);
        last = model.loss()?;
        if step == 0 {
            first = last;
        }
        progress.step(step, last);
    }
    let seconds = progress.finish();
    ensure!(last < first, "{name}: the loss doesn't fall: {first} -> {last}");
    println!(
        "{name}: {} parameters, {} steps of {} pairs, seed {}: loss {first:.3} -> {last:.4} nats per token, {seconds:.0} s",
        parameters.count(),
        arguments.steps,
        SIZES.batch,
        arguments.seed,
    );
    Ok(Trained { parameters, teacher_forced: teacher_forced(&model, test)? })
}

fn write(model: &Trainer<'_>, numbers: &[u32]) {
    let sources: Vec<_> = numbers.iter().map(|number| words(*number)).collect();
    let targets: Vec<_> = numbers.iter().map(|number| digits(*number)).collect();
    model.write(&sources, &targets);
}

/// The share of tokens guessed right when the decoder is given the true ones before.
fn teacher_forced(model: &Trainer<'_>, test: &[u32]) -> Result<f64> {
    let (mut right, mut all) = (0, 0);
    for batch in test.chunks(SIZES.batch) {
        write(model, batch);
        model.tape.run()?;
        let guesses = model.guesses()?;
        for (number, guesses) in batch.iter().zip(guesses.chunks(SIZES.target_length)) {
            let mut answer = digits(*number);
            answer.push(END);
            right += answer.iter().zip(guesses).filter(|(a, b)| a == b).count();
            all += answer.len();
        }
    }
    Ok(right as f64 / all as f64)
}

/// What stands behind a source's end.
#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Pad,
    /// Whatever else the vocabulary has: what a buffer that is used again may hold.
    OtherWords,
}

/// Translates the test numbers.
fn translate(model: &Translator<'_>, test: &[u32], padding: Padding) -> Result<Vec<Vec<i32>>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut fill = || match padding {
        Padding::Pad => PAD,
        Padding::OtherWords => random.random_range(1..numbers::WORD_TOKENS as i32),
    };
    let mut all = Vec::new();
    for batch in test.chunks(SIZES.batch) {
        let sources: Vec<_> = batch.iter().map(|number| words(*number)).collect();
        all.extend(model.translate(&sources, &mut fill)?);
    }
    Ok(all)
}

/// Gives the translations back to the decoder, all positions at once under the causal mask: how many of their tokens
/// it would have chosen, of how many.
fn agreement<'g>(
    gpu: &'g Gpu,
    parameters: &mut Parameters<'g>,
    test: &[u32],
    translations: &[Vec<i32>],
) -> Result<(usize, usize)> {
    let model = Trainer::new(Tape::for_inference(gpu), parameters, SIZES, Masks::ALL)?;
    let (mut same, mut all) = (0, 0);
    for (numbers, translations) in test.chunks(SIZES.batch).zip(translations.chunks(SIZES.batch)) {
        let sources: Vec<_> = numbers.iter().map(|number| words(*number)).collect();
        // A translation without an end has one digit too many for the end that it is given here.
        let known = |translation: &Vec<i32>| {
            translation[..translation.len().min(numbers::MOST_DIGITS)].to_vec()
        };
        model.write(&sources, &translations.iter().map(known).collect::<Vec<_>>());
        model.tape.run()?;
        let guesses = model.guesses()?;
        for (translation, guesses) in translations.iter().zip(guesses.chunks(SIZES.target_length)) {
            same += translation.iter().zip(guesses).filter(|(a, b)| a == b).count();
            all += translation.len();
        }
    }
    Ok((same, all))
}

fn exact(test: &[u32], translations: &[Vec<i32>]) -> f64 {
    let right = test.iter().zip(translations).filter(|(number, found)| digits(**number) == **found);
    right.count() as f64 / test.len() as f64
}

fn compare<'g>(
    gpu: &'g Gpu,
    mut masked: Trained<'g>,
    mut peeking: Trained<'g>,
    test: &[u32],
) -> Result<()> {
    let model = Translator::new(gpu, &mut masked.parameters, SIZES, Masks::ALL)?;
    println!("\nSome of them:\n");
    let found = translate(&model, test, Padding::Pad)?;
    for (number, found) in test.iter().zip(&found).take(5) {
        println!("  {} -> {}", numbers::source_text(*number), numbers::target_text(found));
    }
    let (same, all) = agreement(gpu, &mut masked.parameters, test, &found)?;
    println!(
        "\nOne pass over whole translations, as in training, guesses {same} of their {all} tokens."
    );
    ensure!(same * 100 >= all * 99, "translating by token isn't what training did at once");
    let garbage = translate(&model, test, Padding::OtherWords)?;
    ensure!(found == garbage, "with all masks, what padding holds doesn't matter");

    println!("\n{} numbers that training never saw, translated exactly:\n", test.len());
    println!(
        "| masks | padding holds `<pad>` | padding holds other words | next token, teacher-forced |"
    );
    println!("|---|---|---|---|");
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let forced = percent(masked.teacher_forced);
    let [pad, other] = [&found, &garbage].map(|found| percent(exact(test, found)));
    println!("| all | {pad} | {other} | {forced} |");
    for (name, masks) in [
        ("no padding mask in the encoder", Masks { encoder_padding: false, ..Masks::ALL }),
        ("no padding mask in the cross-attention", Masks { cross_padding: false, ..Masks::ALL }),
    ] {
        let model = Translator::new(gpu, &mut masked.parameters, SIZES, masks)?;
        let [pad, other] = [Padding::Pad, Padding::OtherWords].map(|padding| -> Result<_> {
            Ok(percent(exact(test, &translate(&model, test, padding)?)))
        });
        println!("| {name} | {} | {} | |", pad?, other?);
    }
    let model = Translator::new(gpu, &mut peeking.parameters, SIZES, Masks::ALL)?;
    let [pad, other] = [Padding::Pad, Padding::OtherWords].map(|padding| -> Result<_> {
        Ok(percent(exact(test, &translate(&model, test, padding)?)))
    });
    let forced = percent(peeking.teacher_forced);
    println!("| trained without the decoder's causal mask | {} | {} | {forced} |", pad?, other?);
    Ok(())
}
