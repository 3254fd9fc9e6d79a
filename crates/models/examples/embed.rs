//! Sentences by meaning: all-MiniLM-L6-v2 gives each an embedding, and the cosine of two says how alike they are.
//!
//! The sentences are run padded and packed, which gives the same numbers, and once with padding unmasked, which doesn't: one
//! picture shows the cosines, the other what goes wrong.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use models::fetch;
use models::minilm::{Batching, MiniLm, similarities};
use operators::Gpu;
use wgpu_attention_tools::picture::{Heatmap, Panel};

/// Embeddings of sentences and their cosines, as a table and as pictures.
#[derive(Parser)]
#[command(name = "cargo xtask example embed --")]
struct Options {
    /// The sentences [default: some].
    sentences: Vec<String>,

    /// The folder for the pictures.
    #[arg(long, default_value = "out/embed")]
    out: PathBuf,

    /// A folder with config.json, tokenizer.json and model.safetensors of a BERT encoder [default: fetched].
    #[arg(long)]
    model: Option<PathBuf>,
}

const SENTENCES: [&str; 7] = [
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun.",
    "Stock markets fell sharply on Monday after the central bank raised interest rates again.",
    "Shares dropped.",
    "How do I bake sourdough bread at home?",
    "A recipe for a loaf with a crisp crust: flour, water, salt, and a starter that is a week old.",
    "Cats!",
];

/// Of cosines that padded and packed batches give: sums in another order.
const ALLOWED: f32 = 1e-5;

fn main() -> Result<()> {
    let options = Options::parse();
    let mut sentences = options.sentences;
    if sentences.is_empty() {
        sentences = SENTENCES.map(str::to_owned).to_vec();
    }
    let folder = options.model.map_or_else(|| fetch::MINILM.fetch(), Ok)?;
    let gpu = Gpu::open()?;
    let model = MiniLm::open(&gpu, &folder)?;
    let tokens: Vec<Vec<u32>> =
        sentences.iter().map(|sentence| model.tokens(sentence)).collect::<Result<_>>()?;

    let run = |batching| -> Result<_> {
        let batch = model.batch(&tokens, batching)?;
        batch.run()?; // compiles the kernels
        let clock = Instant::now();
        let embeddings = batch.run()?;
        Ok((similarities(&embeddings), clock.elapsed()))
    };
    let (padded, padded_time) = run(Batching::Padded)?;
    let (packed, packed_time) = run(Batching::Packed)?;
    let (unmasked, _) = run(Batching::PaddingUnmasked)?;

    print_table(&sentences, &padded);
    let largest =
        |other: &[f32]| padded.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let count: usize = tokens.iter().map(Vec::len).sum();
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    println!("\non {}: {count} tokens of {} sentences", gpu.name(), sentences.len());
    println!("padded to {longest} each: {padded_time:.1?}; packed: {packed_time:.1?}");
    println!("padded and packed, cosines differ by {:.0e} at most", largest(&packed));
    println!("with padding unmasked they would be wrong by up to {:.2}", largest(&unmasked));
    ensure!(largest(&packed) <= ALLOWED, "padded and packed give the same");

    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    draw_similarities(&sentences, &padded, &options.out.join("similarities.png"))?;
    draw_padding(&model, &sentences, &tokens, [&padded, &unmasked], &options.out)?;
    println!("pictures: {}", options.out.display());
    Ok(())
}

fn print_table(sentences: &[String], cosines: &[f32]) {
    println!();
    for (at, (sentence, row)) in sentences.iter().zip(cosines.chunks(sentences.len())).enumerate() {
        print!("{:>3}", at + 1);
        row.iter().for_each(|cosine| print!("{cosine:>7.3}"));
        println!("   {sentence}");
    }
}

fn panel(sentences: &[String], cosines: &[f32]) -> Panel {
    let short = |sentence: &String| match sentence.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &sentence[..end]),
        None => sentence.clone(),
    };
    Panel::new(sentences.len(), sentences.len(), cosines).labels(sentences.iter().map(short))
}

fn draw_similarities(sentences: &[String], cosines: &[f32], path: &Path) -> Result<()> {
    let figure = Heatmap::new("How alike sentences are")
        .subtitle("cosines of all-MiniLM-L6-v2's embeddings")
        .legend("cosine")
        .axes("sentence", "sentence")
        .range(0.0, 1.0)
        .panel(panel(sentences, cosines));
    Ok(figure.save(path)?)
}

/// Cosines with padding masked and unmasked, and what the shortest sentence looks at in the first layer.
fn draw_padding(
    model: &MiniLm<'_>,
    sentences: &[String],
    tokens: &[Vec<u32>],
    [masked, unmasked]: [&[f32]; 2],
    out: &Path,
) -> Result<()> {
    let titles = ["padding masked", "padding unmasked"];
    let panels = [masked, unmasked];
    let figure = Heatmap::new("What padding does to the cosines")
        .subtitle("the same sentences in one padded batch, with the mask and without")
        .legend("cosine")
        .axes("sentence", "sentence")
        .range(0.0, 1.0)
        .columns(2)
        .panels(
            titles
                .iter()
                .zip(panels)
                .map(|(title, cosines)| panel(sentences, cosines).title(*title)),
        );
    figure.save(out.join("padding-cosines.png"))?;

    let (at, shortest) =
        tokens.iter().enumerate().min_by_key(|(_, tokens)| tokens.len()).context("no sentence")?;
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let label =
        |column: usize| shortest.get(column).map_or("[PAD]".into(), |&token| model.word(token));
    let mut panels = Vec::new();
    for (title, batching) in titles.iter().zip([Batching::Padded, Batching::PaddingUnmasked]) {
        let weights = model.batch(tokens, batching)?.attention_weights(0)?;
        let cells = longest * longest;
        let heads = weights.len() / tokens.len() / cells;
        let own = &weights[at * heads * cells..][..heads * cells];
        // The mean of the heads, of the sentence's own tokens.
        let mut mean = vec![0.0; shortest.len() * longest];
        for head in own.chunks(cells) {
            mean.iter_mut().zip(head).for_each(|(mean, weight)| *mean += weight / heads as f32);
        }
        let into_padding: f32 =
            mean.chunks(longest).flat_map(|row| &row[shortest.len()..]).sum::<f32>()
                / shortest.len() as f32;
        let is_masked = batching == Batching::Padded;
        panels.push(
            Panel::new(shortest.len(), longest, mean)
                .title(format!("{title}: {:.0} % into padding", 100.0 * into_padding))
                .row_labels((0..shortest.len()).map(label))
                .column_labels((0..longest).map(label))
                .mask_where(|_, column| is_masked && column >= shortest.len()),
        );
    }
    let figure = Heatmap::new("What padding does to attention")
        .subtitle(format!("layer 0, the mean of its heads, of “{}”", sentences[at]))
        .legend("weight")
        .masked_legend("masked")
        .axes("token", "looks at")
        .square_root()
        .columns(1)
        .panels(panels);
    Ok(figure.save(out.join("padding-attention.png"))?)
}
