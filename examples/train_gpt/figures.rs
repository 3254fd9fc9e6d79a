//! The three runs side by side: tables, curves, heads.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use rand::RngExt as _;
use wgpu_attention_tools::picture::{self, Heatmap, Panel};

use crate::data;
use crate::nn::gpt::{CONTEXT, Gpt, HEADS, LAYERS, Masking, VOCABULARY};
use crate::nn::tape::Tape;
use crate::training::{EVALUATE_EVERY, PROMPT, Run, Settings, name};
use operators::Gpu;

const ALL: [Masking; 3] = [Masking::Full, Masking::WithoutCausal, Masking::PaddingUnmasked];
/// The pieces of the comparison by padding are this long.
const SHORT: usize = 32;
/// What the heads are drawn for: from the last tenth of the text.
const SENTENCE: &str = "`What do you know about";

pub(crate) fn draw(
    gpu: &Gpu,
    settings: Settings,
    runs: &Path,
    folder: &Path,
    keep: Option<&Path>,
) -> Result<()> {
    let mut all = Vec::new();
    for masking in ALL {
        let run = match Run::open(gpu, runs, settings, masking)? {
            Some(run) => run,
            None => {
                // What is compared is what is in the file, rounded.
                Run::train(gpu, settings, masking)?.save(runs)?;
                Run::open(gpu, runs, settings, masking)?
                    .ok_or_else(|| anyhow!("the run isn't where it was written"))?
            }
        };
        all.push(run);
    }
    by_mask(gpu, &mut all)?;
    by_padding(gpu, &mut all)?;
    for run in &mut all {
        println!("\n{}:\n\n{PROMPT}{}", name(run.masking), run.sample(gpu, 200)?);
    }
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("loss.png"), picture::rasterize(&curves(&all)?)?)?;
    for run in &mut all[..2] {
        let file = format!("heads-{}.png", name(run.masking).replace(' ', "-"));
        heads(gpu, run)?.save(folder.join(file))?;
    }
    if let Some(keep) = keep {
        std::fs::copy(Run::path(runs, Masking::Full), keep)?;
    }
    Ok(())
}

/// The loss on unseen text: under the mask of the training, and under the one that generation comes to.
fn by_mask<'g>(gpu: &'g Gpu, runs: &mut [Run<'g>]) -> Result<()> {
    println!(
        "\n| run | time | loss in training, last 50 steps | unseen text, as trained | unseen text, both masks |"
    );
    println!("|---|---|---|---|---|");
    for run in runs {
        let own = run.evaluate_under(gpu, run.masking)?;
        let both = run.evaluate_under(gpu, Masking::Full)?;
        let last = &run.losses[run.losses.len().saturating_sub(50)..];
        let trained = last.iter().sum::<f32>() / last.len() as f32;
        let (name, seconds) = (name(run.masking), run.seconds);
        println!("| {name} | {seconds:.0} s | {trained:.2} | {own:.2} | {both:.2} |");
    }
    println!(
        "\nGuessing uniformly is a loss of {:.2}, by each byte's frequency one of {:.2}.",
        (VOCABULARY as f64).ln(),
        loss_by_frequency(),
    );
    Ok(())
}

/// The loss on unseen text of whoever knows no more than how often each byte occurs in what is trained on.
fn loss_by_frequency() -> f64 {
    // One more of each, for those that don't occur.
    let mut counts = [1.0_f64; VOCABULARY];
    data::training().iter().for_each(|byte| counts[usize::from(*byte)] += 1.0);
    let all: f64 = counts.iter().sum();
    let losses = data::validation().iter().map(|byte| (all / counts[usize::from(*byte)]).ln());
    losses.sum::<f64>() / data::validation().len() as f64
}

/// The loss on the same short pieces in rows with more and more padding.
fn by_padding<'g>(gpu: &'g Gpu, runs: &mut [Run<'g>]) -> Result<()> {
    let lengths = [SHORT, 2 * SHORT, 3 * SHORT, CONTEXT];
    println!("\nThe same pieces of {SHORT} bytes, in rows with more and more padding:\n");
    print!("| trained with, evaluated with |");
    lengths.iter().for_each(|length| print!(" {} + {SHORT} |", length - SHORT));
    println!("\n|---|---|---|---|---|");
    for (run, masking, words) in [
        (0, Masking::Full, "padding masked, masked"),
        (0, Masking::PaddingUnmasked, "padding masked, unmasked"),
        (2, Masking::PaddingUnmasked, "padding unmasked, unmasked"),
        (2, Masking::Full, "padding unmasked, masked"),
    ] {
        print!("| {words} |");
        for length in lengths {
            let loss = runs[run].evaluate_on(gpu, masking, length, |random| {
                let text = data::validation();
                let start = random.random_range(0..text.len() - SHORT);
                (&text[start..start + SHORT], text[start + SHORT])
            })?;
            print!(" {loss:.3} |");
        }
        println!();
    }
    Ok(())
}

/// The loss over the steps: thin as it was in each batch, thick on unseen text.
fn curves(runs: &[Run<'_>]) -> Result<String> {
    let mut svg = String::new();
    let steps = runs.iter().map(|run| run.losses.len()).max().unwrap_or(1);
    let uniform = (VOCABULARY as f32).ln();
    {
        let root = SVGBackend::with_string(&mut svg, (760, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(48)
            .build_cartesian_2d(0..steps, 0.0..uniform)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.1))
            .label_style(("sans-serif", 13))
            .x_desc("step")
            .y_desc("loss, nats per byte")
            .draw()?;
        let colors = [RGBColor(33, 102, 172), RGBColor(200, 60, 40), RGBColor(230, 150, 30)];
        for (run, color) in runs.iter().zip(colors) {
            let batches = run.losses.iter().copied().enumerate();
            chart.draw_series(LineSeries::new(batches, color.mix(0.25)))?;
            let steps = (0..).map(|index| (index * EVALUATE_EVERY).min(run.losses.len()));
            let unseen = steps.zip(run.validation.iter().copied());
            chart
                .draw_series(LineSeries::new(unseen, color.stroke_width(2)))?
                .label(label(run.masking))
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", 14))
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

const fn label(masking: Masking) -> &'static str {
    match masking {
        Masking::Full => "causal & token_padding",
        Masking::WithoutCausal => "token_padding: the future is seen",
        Masking::PaddingUnmasked => "causal: padding is seen",
    }
}

/// Every head of every layer, reading one sentence.
fn heads<'g>(gpu: &'g Gpu, run: &mut Run<'g>) -> Result<Heatmap> {
    let tape = Tape::for_inference(gpu);
    let length = SENTENCE.len();
    let model = Gpt::new(tape, &mut run.parameters, [1, length], run.masking)?;
    model.write(&[(SENTENCE.as_bytes(), b' ')]);
    model.tape.run()?;
    let letters = || SENTENCE.chars().map(|letter| if letter == ' ' { '·' } else { letter });
    let mut figure = Heatmap::new(format!("Trained with {}", run.masking.mask()))
        .subtitle("what each byte attends to, in every head")
        .legend("weight")
        .square_root()
        .range(0.0, 1.0)
        .columns(HEADS)
        .numbers(false)
        .largest_panel(320.0);
    for layer in 0..LAYERS {
        let weights = model.tape.attention_weights(layer)?;
        for (head, plane) in weights.chunks(length * length).enumerate() {
            let mut panel = Panel::new(length, length, plane)
                .title(format!("layer {layer}, head {head}"))
                .labels(letters().map(String::from));
            if run.masking != Masking::WithoutCausal {
                panel = panel.mask_where(|row, column| column > row);
            }
            figure = figure.panel(panel);
        }
    }
    Ok(figure)
}
