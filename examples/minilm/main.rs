//! The main job: masked attention on a real model's tensors, checked, and drawn.
//!
//! `data/` has what self-attention received in two layers of all-MiniLM-L6-v2, a BERT encoder: q, k and v of four
//! sentences of different lengths, padded to 27 tokens. Attention runs on the device under the padding mask and is
//! compared with the recorded output and with the reference on the CPU. Then the weights of every head are drawn into
//! `out/`, once with the mask and once without, so that one sees what leaks into [PAD].
//!
//! Arguments: files to use instead, with the same tensors and metadata.

mod leak;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_attention::plan::ScoreTensor;
use wgpu_attention::{
    AuxData, Inputs, Layout, Mask, Output, Problem, RunOptions, Session, Shape, reference,
};
use wgpu_attention_tools::files::{Operands, TensorFile};
use wgpu_attention_tools::picture::{self, Heatmap, Panel};

const PAD: &str = "[PAD]";

/// A layer's tensors, as recorded.
struct Layer {
    /// The file's name without its ending.
    name: String,
    operands: Operands,
    /// Attention's output as it was recorded.
    o: Vec<f32>,
    lengths: Vec<usize>,
    /// The sentences' tokens, padding included.
    tokens: Vec<Vec<String>>,
    by_lengths: AuxData,
    by_tokens: AuxData,
}

/// The weights of a layer, `[batch, num_heads, seq_len, seq_len]`, under two masks.
struct Weights {
    masked: Vec<f32>,
    unmasked: Vec<f32>,
}

impl Weights {
    fn of(&self, masked: bool) -> &[f32] {
        if masked { &self.masked } else { &self.unmasked }
    }
}

fn main() -> Result<()> {
    let layers: Vec<Layer> = files().iter().map(|path| Layer::open(path)).collect::<Result<_>>()?;
    let attention = Session::open_blocking(&Default::default())?;
    println!("device: {}", attention.kernels().device().adapter_info().name);

    let weights: Vec<Weights> =
        layers.iter().map(|layer| check(&attention, layer)).collect::<Result<_>>()?;
    draw(&layers, &weights, Path::new("out"))
}

/// The files that were named, or those that come with the crate.
fn files() -> Vec<PathBuf> {
    let named: Vec<OsString> = std::env::args_os().skip(1).collect();
    if !named.is_empty() {
        return named.into_iter().map(PathBuf::from).collect();
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    [0, 3].map(|layer| data.join(format!("minilm-layer{layer}.safetensors"))).to_vec()
}

impl Layer {
    fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let operands = file.operands(Layout::Bhsd)?;
        let shape = operands.shape;
        ensure!(
            shape == Shape::new(shape.batch, shape.num_heads, shape.seq_len_q, shape.head_dim),
            "this is about self-attention, with a key and a value head per query head"
        );
        let mut tokens = file.tokens().context("the file's metadata has no tokens")?;
        for sentence in &mut tokens {
            sentence.resize(shape.seq_len_kv, PAD.to_owned());
        }
        let o = file.read_f32("o")?;
        let lengths = file.read_i32("key_lengths")?.values;
        ensure!(
            o.dims == operands.o_dims(),
            "o: expected {:?}, found {:?}",
            operands.o_dims(),
            o.dims
        );
        ensure!(
            [tokens.len(), lengths.len()] == [shape.batch; 2]
                && lengths.iter().all(|&length| (2..=shape.seq_len_kv as i32).contains(&length)),
            "expected tokens and a length of at least 2, [CLS] and [SEP], for each sentence"
        );
        Ok(Self {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            o: o.values,
            lengths: lengths.into_iter().map(|length| length as usize).collect(),
            tokens,
            by_lengths: file.mask_data(&Mask::KeyLengths, &shape, None)?,
            by_tokens: file.mask_data(&Mask::TokenPadding, &shape, None)?,
            operands,
        })
    }

    const fn shape(&self) -> &Shape {
        &self.operands.shape
    }

    /// A head's weights from what the sentence's own tokens look at, padding and all.
    fn plane<'a>(&self, weights: &'a [f32], sentence: usize, head: usize) -> &'a [f32] {
        let Shape { num_heads, seq_len_q, seq_len_kv, .. } = *self.shape();
        let first = (sentence * num_heads + head) * seq_len_q * seq_len_kv;
        &weights[first..][..self.lengths[sentence] * seq_len_kv]
    }

    /// [`Layer::plane`], the mean of all heads.
    fn mean_of_heads(&self, weights: &[f32], sentence: usize) -> Vec<f32> {
        let num_heads = self.shape().num_heads;
        let mut mean = vec![0.0; self.plane(weights, sentence, 0).len()];
        for head in 0..num_heads {
            let plane = self.plane(weights, sentence, head);
            mean.iter_mut()
                .zip(plane)
                .for_each(|(mean, weight)| *mean += weight / num_heads as f32);
        }
        mean
    }

    /// A matrix of the sentence's own tokens by all that stands in its row of the batch.
    fn panel(&self, sentence: usize, values: Vec<f32>, masked: bool) -> Panel {
        let (length, tokens) = (self.lengths[sentence], &self.tokens[sentence]);
        Panel::new(length, tokens.len(), values)
            .row_labels(tokens[..length].to_vec())
            .column_labels(tokens.clone())
            .mask_where(|_, column| masked && column >= length)
    }

    /// The sentence, put together from its word pieces, without the marks at its ends.
    fn text(&self, sentence: usize) -> String {
        let own = &self.tokens[sentence][1..self.lengths[sentence] - 1];
        own.iter().fold(String::new(), |text, token| match token.strip_prefix("##") {
            Some(ending) => text + ending,
            None if text.is_empty() || [".", ","].contains(&token.as_str()) => text + token,
            None => text + " " + token,
        })
    }

    /// The share of its attention that a sentence spends on padding, on average over heads and tokens.
    fn leak(&self, weights: &[f32], sentence: usize) -> f64 {
        let Shape { num_heads, seq_len_kv, .. } = *self.shape();
        let length = self.lengths[sentence];
        let into_padding = |head| {
            let rows = self.plane(weights, sentence, head).chunks(seq_len_kv);
            rows.flat_map(|row| &row[length..]).map(|&weight| f64::from(weight)).sum::<f64>()
        };
        let total = (0..num_heads).map(into_padding).fold(0.0, |sum, share| sum + share);
        total / (num_heads * length) as f64
    }
}

/// Computes a layer's attention, prints how right it is, and fails where it isn't.
fn check(attention: &Session, layer: &Layer) -> Result<Weights> {
    let Shape { batch, num_heads, seq_len_q, head_dim, .. } = *layer.shape();
    println!(
        "\n{}: {batch} sentences of {:?} tokens, padded to {seq_len_q}; {num_heads} heads of {head_dim}",
        layer.name, layer.lengths
    );
    let problem = layer.operands.problem(Mask::KeyLengths);
    println!("  {}\n", attention.kernels().explain(&problem, &Default::default())?);

    // The first call compiles the kernels.
    let run = |mask: Mask, data: &AuxData| run(attention, layer, mask, data);
    let (first, _) = run(Mask::KeyLengths, &layer.by_lengths)?;
    let (again, output) = run(Mask::KeyLengths, &layer.by_lengths)?;
    let (_, by_tokens) = run(Mask::TokenPadding, &layer.by_tokens)?;
    let (_, unmasked) = run(Mask::All, &AuxData::new())?;

    let inputs = layer.operands.inputs(&layer.by_lengths);
    let start = Instant::now();
    let truth = reference::attention(&problem, &inputs)?;
    let reference_time = start.elapsed();
    let recorded: Vec<f64> = layer.o.iter().copied().map(f64::from).collect();

    // What plain f32 arithmetic gets wrong is the yardstick: flash attention may be off by twice that, and a little.
    let [naive_o, naive_weights] = naive_f32(&problem, &inputs, &layer.lengths);
    let o = Yardstick::new(&naive_o, &truth.o);
    let weights = Yardstick::new(&naive_weights, &truth.weights);
    println!("  {:<42}largest error   naive f32     allowed", "on the device, against");
    o.check("o, recorded", &output.o, &recorded)?;
    o.check("o, reference in f64", &output.o, &truth.o)?;
    o.check("o by `token_padding`, reference in f64", &by_tokens.o, &truth.o)?;
    weights.check("weights, reference in f64", &output.tensors[0], &truth.weights)?;
    println!("\n  o and the weights in one call, upload and readback included: {again:.1?}");
    println!("  the first such call, which compiles what isn't compiled yet: {first:.1?}");
    println!("  the reference on the CPU: {reference_time:.1?}");

    let weights =
        Weights { masked: output.tensors[0].clone(), unmasked: unmasked.tensors[0].clone() };
    print_leaks(layer, &weights)?;
    Ok(weights)
}

/// What an error is measured by.
struct Yardstick {
    naive: f64,
    allowed: f64,
}

impl Yardstick {
    fn new(naive: &[f32], truth: &[f64]) -> Self {
        let naive = max_error(naive, truth);
        Self { naive, allowed: 2.0 * naive + 1e-6 * largest(truth) }
    }

    fn check(&self, what: &str, values: &[f32], truth: &[f64]) -> Result<()> {
        let error = max_error(values, truth);
        println!("  {what:<42}{error:>13.2e}{:>12.2e}{:>12.2e}", self.naive, self.allowed);
        ensure!(error <= self.allowed, "{what}: the error is {error:.2e}");
        Ok(())
    }
}

/// Runs the attention of a layer; says how long it took.
fn run(
    attention: &Session,
    layer: &Layer,
    mask: Mask,
    data: &AuxData,
) -> Result<(Duration, Output)> {
    let outputs = RunOptions::default().tensors(vec![ScoreTensor::Weights]);
    let start = Instant::now();
    let problem = layer.operands.problem(mask);
    let output = attention.run_blocking(&problem, &layer.operands.inputs(data), &outputs)?;
    Ok((start.elapsed(), output))
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn max_error(values: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(values.len(), truth.len(), "tensors of the same size");
    // A NaN, which no comparison finds, counts as infinitely wrong.
    let error = |(value, truth): (&f32, &f64)| {
        let error = (f64::from(*value) - truth).abs();
        if error.is_nan() { f64::INFINITY } else { error }
    };
    values.iter().zip(truth).map(error).fold(0.0, f64::max)
}

/// Output and weights over the first `lengths[b]` keys, in f32 throughout, as one would write it down.
fn naive_f32(problem: &Problem, inputs: &Inputs<'_>, lengths: &[usize]) -> [Vec<f32>; 2] {
    let Shape { num_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v, .. } = *problem.shape();
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|operand| operand.to_f32());
    let (mut o, mut all_weights) = (Vec::new(), Vec::new());
    for (row, q) in q.chunks(head_dim).enumerate() {
        let head = row / seq_len_q;
        let length = lengths[head / num_heads];
        let k = k[head * seq_len_kv * head_dim..].chunks(head_dim).take(length);
        let v = || v[head * seq_len_kv * head_dim_v..].chunks(head_dim_v).take(length);
        let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        let scores: Vec<f32> = k.map(|k| dot(k) * problem.get_scale()).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials = scores.iter().map(|score| (score - largest).exp());
        let sum: f32 = exponentials.clone().sum();
        let weights: Vec<f32> = exponentials.map(|exponential| exponential / sum).collect();
        let component = |d: usize| weights.iter().zip(v()).map(|(w, v)| w * v[d]).sum::<f32>();
        o.extend((0..head_dim_v).map(component));
        all_weights.extend(weights.iter().copied().chain(vec![0.0; seq_len_kv - length]));
    }
    [o, all_weights]
}

/// How much of each sentence's attention goes into its padding.
fn print_leaks(layer: &Layer, weights: &Weights) -> Result<()> {
    println!("\n  {:<42}without mask   with mask", format!("attention that leaks into {PAD}"));
    for (sentence, &length) in layer.lengths.iter().enumerate() {
        let [without, with] =
            [&weights.unmasked, &weights.masked].map(|weights| layer.leak(weights, sentence));
        let padding = layer.shape().seq_len_kv - length;
        let name = shortened(&layer.text(sentence), 26);
        println!(
            "  {name:<27}{length:>3} + {padding:>2} x {PAD}{:>10.1} %{:>10} %",
            100.0 * without,
            100.0 * with
        );
        ensure!(
            with == 0.0,
            "{}: {with} of sentence {sentence} leaks through the mask",
            layer.name
        );
        ensure!((without > 0.0) == (padding > 0), "{}: {without} leaks without a mask", layer.name);
    }
    Ok(())
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 3).chain("...".chars()).collect()
}

/// Draws every sentence of every layer, with the mask and without, and an overview of the layer.
fn draw(layers: &[Layer], weights: &[Weights], folder: &Path) -> Result<()> {
    let pictures: usize = layers.iter().map(|layer| 2 + 2 * layer.lengths.len()).sum();
    let style = ProgressStyle::with_template("drawing {bar:30} {pos}/{len} {msg}")?;
    let progress = ProgressBar::new(pictures as u64).with_style(style);
    let save = |heatmap: Heatmap, name: String| {
        progress.set_message(name.clone());
        heatmap.save(folder.join(name))?;
        progress.inc(1);
        anyhow::Ok(())
    };
    for (layer, weights) in layers.iter().zip(weights) {
        let name = format!("{}-leak.png", layer.name);
        progress.set_message(name.clone());
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(name), picture::rasterize(&leak::svg(layer, weights))?)?;
        progress.inc(1);
        save(overview(layer, weights), format!("{}-overview.png", layer.name))?;
        for sentence in 0..layer.lengths.len() {
            for masked in [true, false] {
                let kind = if masked { "with-mask" } else { "without-mask" };
                let name = format!("{}-sentence{}-{kind}.png", layer.name, sentence + 1);
                save(heads(layer, weights, sentence, masked), name)?;
            }
        }
    }
    progress.finish_and_clear();
    println!("\n{pictures} pictures of the weights are in {}/", folder.display());
    Ok(())
}

/// What a sentence's tokens look at, a panel per head.
fn heads(layer: &Layer, weights: &Weights, sentence: usize, masked: bool) -> Heatmap {
    let weights = weights.of(masked);
    let panels = (0..layer.shape().num_heads).map(|head| {
        let plane = layer.plane(weights, sentence, head).to_vec();
        layer.panel(sentence, plane, masked).title(format!("head {head}"))
    });
    let with = if masked { "with" } else { "without" };
    let leak = 100.0 * layer.leak(weights, sentence);
    figure(format!(
        "{} {with} the mask: {leak:.1} % of the attention goes into padding",
        layer.name
    ))
    .subtitle(layer.text(sentence))
    .range(0.0, 1.0)
    .panels(panels)
}

/// The padded sentences without the mask beside the same with it, the mean of the heads.
fn overview(layer: &Layer, weights: &Weights) -> Heatmap {
    let padded = (0..layer.lengths.len())
        .filter(|&sentence| layer.lengths[sentence] < layer.shape().seq_len_kv);
    let panels = padded.flat_map(|sentence| [(sentence, false), (sentence, true)]);
    let panels = panels.map(|(sentence, masked)| {
        let weights = weights.of(masked);
        let with = if masked { "with" } else { "without" };
        let leak = 100.0 * layer.leak(weights, sentence);
        layer
            .panel(sentence, layer.mean_of_heads(weights, sentence), masked)
            .title(format!("{with} the mask: {leak:.1} % into padding"))
    });
    figure(format!("{}: attention that leaks into padding", layer.name))
        .subtitle("the mean of all heads; each row shows what a token looks at")
        .columns(2)
        .panels(panels)
}

fn figure(title: String) -> Heatmap {
    // Most weights are small: by their square roots they are told apart.
    Heatmap::new(title).legend("weight").masked_legend("masked").square_root()
}
