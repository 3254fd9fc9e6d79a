//! SmolLM2-135M-Instruct writes on: the prompt in one parallel pass, then token by token from a cache of keys and values.
//!
//! Several prompts run at once, in a cache of blocks.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use models::fetch;
use models::llama::{Llama, Request, Rows, Stage, perplexity, serve};
use operators::Gpu;
use wgpu_attention::Dtype;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention_tools::picture::{Heatmap, Panel};

/// A small language model writes on.
#[derive(Parser)]
#[command(name = "cargo xtask example chat --")]
struct Options {
    /// What to write on from; several are run at once.
    #[arg(required_unless_present_any = ["perplexity", "speed"])]
    prompts: Vec<String>,

    /// Put the prompts as questions of a user, by the model's template.
    #[arg(long)]
    template: bool,

    /// Always take the likeliest token.
    #[arg(long)]
    greedy: bool,

    /// How freely tokens are chosen without --greedy.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,

    /// The most tokens to generate.
    #[arg(long, default_value_t = 128)]
    tokens: usize,

    /// Print the generated tokens' numbers as one line of JSON instead of text.
    #[arg(long)]
    ids: bool,

    /// How keys and values are kept [default: f16; with --perplexity each way].
    #[arg(long, value_enum)]
    cache: Option<Cache>,

    /// Draw what each token of the prompt looks at.
    #[arg(long, value_name = "PNG")]
    attention: Option<PathBuf>,

    /// Print the perplexity of a text's first --tokens tokens.
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,

    /// Print the tokens per second of a prompt of so many tokens, and of --tokens behind it, as JSON.
    #[arg(long, value_name = "TOKENS")]
    speed: Option<usize>,

    /// A GGUF file of a model of llama's kind [default: fetched].
    #[arg(long)]
    model: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Cache {
    F32,
    #[default]
    F16,
    /// 8 bits, with a scale for each row.
    I8,
    /// 4 bits, with a scale and a zero point for each 32 components.
    I4,
}

impl Cache {
    const fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::I8 => Dtype::I8,
            Self::I4 => Dtype::I4,
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.tokens > 0, "--tokens 0 generates nothing");
    let path = match &options.model {
        Some(path) => path.clone(),
        None => fetch::SMOLLM2.fetch()?.join("SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    let gpu = Gpu::open()?;
    let model = Llama::open(&gpu, &path)?;
    if let Some(file) = &options.perplexity {
        return print_perplexity(&model, file, &options);
    }
    if let Some(prompt) = options.speed {
        return print_speed(&model, prompt, &options);
    }
    let prompts = (options.prompts.iter())
        .map(|prompt| match options.template {
            true => model.tokens.encode(&model.tokens.chat(prompt)?),
            false => model.tokens.encode(prompt),
        })
        .collect::<Result<Vec<_>>>()?;
    if let Some(path) = &options.attention {
        return draw_attention(&model, &prompts[0], path);
    }
    match <[Vec<u32>; 1]>::try_from(prompts) {
        Ok([prompt]) => write_on(&model, &prompt, &options),
        Err(prompts) => write_on_at_once(&model, prompts, &options),
    }
}

/// One prompt, its text as it comes.
fn write_on(model: &Llama<'_>, prompt: &[u32], options: &Options) -> Result<()> {
    let capacity = prompt.len() + options.tokens;
    ensure!(
        capacity <= model.context(),
        "{} tokens of prompt and {} behind it, where the model takes at most {}",
        prompt.len(),
        options.tokens,
        model.context()
    );
    let temperature = if options.greedy { 0.0 } else { options.temperature };
    let shape = model.cache_shape(1, capacity, options.cache.unwrap_or_default().dtype());
    let mut caches = model.caches(&shape)?;
    let stage = |tokens| {
        Stage::new(model, &shape, tokens, QuerySequences::Uniform, Rows::Last, temperature)
    };
    let (prefill, step) = (stage(prompt.len())?, stage(1)?);

    let clock = Instant::now();
    prefill.write(prompt)?;
    let mut chosen = prefill.run(&mut caches, None)?;
    let prefill_time = clock.elapsed();
    let clock = Instant::now();
    let mut generated = Vec::new();
    let mut text = model.tokens.stream();
    while let [token] = chosen[..]
        && token != model.tokens.end()
    {
        generated.push(token);
        if !options.ids {
            print!("{}", text(token)?);
            std::io::stdout().flush()?;
        }
        if generated.len() == options.tokens {
            break;
        }
        let before = if generated.len() == 1 { &prefill } else { &step };
        chosen = step.run_after(before, &mut caches)?;
    }
    let time = clock.elapsed();
    match options.ids {
        true => println!("{}", serde_json::to_string(&generated)?),
        false => println!(),
    }
    let steps = generated.len().saturating_sub(1);
    eprintln!(
        "\non {}: prompt {} tokens, {:.1} per second; then {steps}, {:.1} per second",
        model.gpu().name(),
        prompt.len(),
        prompt.len() as f64 / prefill_time.as_secs_f64(),
        steps as f64 / time.as_secs_f64()
    );
    Ok(())
}

/// Several prompts at once.
fn write_on_at_once(model: &Llama<'_>, prompts: Vec<Vec<u32>>, options: &Options) -> Result<()> {
    ensure!(
        options.greedy,
        "several prompts at once always take the likeliest token: say --greedy"
    );
    let places = prompts.len().min(8);
    let requests =
        prompts.into_iter().map(|prompt| Request { prompt, tokens: options.tokens }).collect();
    let clock = Instant::now();
    let (results, passes) =
        serve(model, requests, places, options.cache.unwrap_or_default().dtype())?;
    let time = clock.elapsed().as_secs_f64();
    let count: usize = results.iter().map(Vec::len).sum();
    for (prompt, tokens) in options.prompts.iter().zip(&results) {
        match options.ids {
            true => println!("{}", serde_json::to_string(tokens)?),
            false => println!("{prompt}{}\n", model.tokens.decode(tokens)?),
        }
    }
    eprintln!(
        "on {}: {count} tokens in {passes} passes, {:.1} per second",
        model.gpu().name(),
        count as f64 / time
    );
    Ok(())
}

/// The second of two runs: the first compiles the kernels.
fn print_speed(model: &Llama<'_>, prompt: usize, options: &Options) -> Result<()> {
    ensure!(
        (1..=model.context()).contains(&(prompt + options.tokens)),
        "more tokens than the model takes"
    );
    let tokens: Vec<u32> = (0..prompt as u32).map(|at| 1000 + at * 7 % 4000).collect();
    let shape =
        model.cache_shape(1, prompt + options.tokens, options.cache.unwrap_or_default().dtype());
    let stage =
        |tokens| Stage::new(model, &shape, tokens, QuerySequences::Uniform, Rows::Last, 0.0);
    let (prefill, step) = (stage(prompt)?, stage(1)?);
    let mut speeds = [0.0; 2];
    for _ in 0..2 {
        let mut caches = model.caches(&shape)?;
        prefill.write(&tokens)?;
        let clock = Instant::now();
        prefill.run(&mut caches, None)?;
        speeds[0] = prompt as f64 / clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        for number in 0..options.tokens {
            step.run_after(if number == 0 { &prefill } else { &step }, &mut caches)?;
        }
        speeds[1] = options.tokens as f64 / clock.elapsed().as_secs_f64();
    }
    let [prefill, decode] = speeds;
    println!("{}", serde_json::json!({ "prefill": prefill, "decode": decode }));
    Ok(())
}

/// What the tokens of a prompt look at in one of the middle layers, a panel for some of its heads.
fn draw_attention(model: &Llama<'_>, prompt: &[u32], path: &PathBuf) -> Result<()> {
    const LAYER: usize = 4;
    let count = prompt.len();
    let shape = model.cache_shape(1, count, Dtype::F32);
    let stage = Stage::new(model, &shape, count, QuerySequences::Uniform, Rows::Last, 0.0)?;
    stage.write(prompt)?;
    let weights = stage.attention_weights(&mut model.caches(&shape)?, LAYER)?;
    let words: Vec<String> =
        prompt.iter().map(|&token| model.tokens.decode(&[token])).collect::<Result<_>>()?;
    let panels = weights.chunks(count * count).enumerate().step_by(3).map(|(head, weights)| {
        Panel::new(count, count, weights)
            .title(format!("head {head}"))
            .labels(words.iter().map(|word| word.trim()))
            .mask_where(|row, column| column > row)
    });
    let figure = Heatmap::new("What each token looks at")
        .subtitle(format!("SmolLM2-135M, layer {LAYER}: a token doesn't see those behind it"))
        .legend("weight")
        .masked_legend("masked")
        .axes("token", "looks at")
        .square_root()
        .columns(3)
        .panels(panels);
    Ok(figure.save(path)?)
}

fn print_perplexity(model: &Llama<'_>, file: &PathBuf, options: &Options) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut tokens = model.tokens.encode(&text)?;
    tokens.truncate(options.tokens);
    let bar = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {elapsed}")?;
    let caches = match &options.cache {
        Some(cache) => std::slice::from_ref(cache),
        None => Cache::value_variants(),
    };
    for dtype in caches.iter().map(|cache| cache.dtype()) {
        let progress = ProgressBar::new(tokens.len() as u64)
            .with_style(bar.clone())
            .with_prefix(dtype.to_string());
        let clock = Instant::now();
        let value = perplexity(model, &tokens, dtype, |done| progress.set_position(done as u64))?;
        progress.finish_and_clear();
        let time = clock.elapsed().as_secs_f64();
        println!(
            "cache of {dtype}: perplexity {value:.4} over {} tokens ({time:.0} s)",
            tokens.len()
        );
    }
    Ok(())
}
