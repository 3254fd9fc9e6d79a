//! Trains a small GPT on the device, forward and backward through this crate's attention, and shows what its masks are for.
//!
//! The text is *Alice's Adventures in Wonderland*, byte by byte, in batches of pieces of different lengths. Both masks
//! can be left out by a flag: `--without-causal` lets every token see the next, which is the answer it should learn to
//! give; `--padding-unmasked` lets it see the padding. `--figures FOLDER` trains all three and draws the curves and heads.
//!
//! What a run learnt is written to `out/train_gpt/`, as safetensors. `--check-gradients` compares the gradients of every
//! operation with finite differences.

#[path = "../nn/mod.rs"]
mod nn;

mod data;
mod figures;
mod training;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use nn::gpt::Masking;
use operators::Gpu;
use training::{Run, Settings};

#[derive(Parser)]
#[command(about = "Train a small GPT and see what its masks are for")]
struct Arguments {
    /// Let every token see the future.
    #[arg(long, conflicts_with = "padding_unmasked")]
    without_causal: bool,

    /// Let every token see the padding.
    #[arg(long)]
    padding_unmasked: bool,

    /// Steps of training.
    #[arg(long, default_value_t = 1000)]
    steps: usize,

    /// Where everything random starts.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Bytes to generate at the end.
    #[arg(long, default_value_t = 200)]
    sample: usize,

    /// Where runs are kept.
    #[arg(long, default_value = "out/train_gpt")]
    out: PathBuf,

    /// Make sure that all three runs are in `--out`, compare them, and draw the figures into this folder.
    #[arg(long, value_name = "FOLDER")]
    figures: Option<PathBuf>,

    /// Keep a copy of the model here.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,

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
    let settings = Settings { steps: arguments.steps, seed: arguments.seed };
    if let Some(folder) = &arguments.figures {
        return figures::draw(&gpu, settings, &arguments.out, folder, arguments.keep.as_deref());
    }
    let masking = match (arguments.without_causal, arguments.padding_unmasked) {
        (true, _) => Masking::WithoutCausal,
        (_, true) => Masking::PaddingUnmasked,
        _ => Masking::Full,
    };
    let mut run = Run::train(&gpu, settings, masking)?;
    let path = run.save(&arguments.out)?;
    println!("{}", run.summary());
    let sample = run.sample(&gpu, arguments.sample)?;
    println!("\n{}{sample}\n", training::PROMPT);
    println!("the model is in {}", path.display());
    if let Some(keep) = &arguments.keep {
        std::fs::copy(&path, keep)?;
    }
    Ok(())
}
