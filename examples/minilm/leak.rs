//! The picture of the leak: where each token's attention goes, as a bar that is 100 % long.

use std::fmt::Write as _;

use crate::{Layer, Weights, shortened};

const BAR: f64 = 430.0;
const STEP: f64 = 24.0;
const THICKNESS: f64 = 18.0;
const LABEL: f64 = 78.0;
const MARGIN: f64 = 24.0;
/// Between a sentence's title and its bars.
const TITLE: f64 = 40.0;
/// Of a character of the labels.
const CHARACTER: f64 = 6.7;

/// Colours that colour-blind readers tell apart (Okabe and Ito); padding is hatched besides.
const WORD: &str = "#0072b2";
const PADDING: &str = "#e69f00";

/// Of the short sentences of a layer: without the mask on the left, with it on the right.
pub(crate) fn svg(layer: &Layer, weights: &Weights) -> String {
    let short = |sentence: &usize| (2..=8).contains(&layer.lengths[*sentence]);
    let sentences: Vec<usize> = (0..layer.lengths.len()).filter(short).collect();
    let rows: usize = sentences.iter().map(|&sentence| layer.lengths[sentence]).sum();
    let width = 2.0 * (MARGIN + LABEL + BAR) + MARGIN;
    let top = 92.0;
    let height = top + rows as f64 * STEP + sentences.len() as f64 * TITLE + 52.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\
         <defs><pattern id=\"hatch\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
         <rect width=\"7\" height=\"7\" fill=\"{PADDING}\"/><rect width=\"2\" height=\"7\" fill=\"#fff\" opacity=\"0.6\"/>\
         </pattern></defs><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    text(&mut svg, [MARGIN, 40.0], "start", 22.0, "#1b1f28", "Where each token's attention goes");
    let subtitle = format!(
        "{}, the mean of {} heads; each bar is one token's attention, and the tokens that it goes to",
        layer.name,
        layer.shape().num_heads
    );
    text(&mut svg, [MARGIN, 64.0], "start", 14.0, "#5a6272", &subtitle);
    let mut y = top;
    for &sentence in &sentences {
        for (side, masked) in [false, true].into_iter().enumerate() {
            let left = MARGIN + side as f64 * (MARGIN + LABEL + BAR);
            let leak = 100.0 * layer.leak(weights.of(masked), sentence);
            let with = if masked { "with key_lengths" } else { "without a mask" };
            let title = format!("{with}: {leak:.0} % leaks into padding");
            text(&mut svg, [left + LABEL, y + 24.0], "start", 15.0, "#1b1f28", &title);
            let mean = layer.mean_of_heads(weights.of(masked), sentence);
            let keys = layer.shape().seq_len_kv;
            for (row, weights) in mean.chunks(keys).enumerate() {
                let at = [left, y + TITLE - 6.0 + row as f64 * STEP];
                bar(&mut svg, at, layer, sentence, row, weights);
            }
        }
        y += TITLE + layer.lengths[sentence] as f64 * STEP;
    }
    for (at, fill, name) in [(0.0, WORD, "words"), (90.0, "url(#hatch)", "padding")] {
        let (x, y) = (MARGIN + LABEL + at, height - 34.0);
        rectangle(&mut svg, [x, y, 14.0, 14.0], fill);
        text(&mut svg, [x + 20.0, y + 12.0], "start", 13.0, "#1b1f28", name);
    }
    svg + "</svg>"
}

/// One token's bar: a piece for each word, and one for all of the padding.
fn bar(
    svg: &mut String,
    [x, y]: [f64; 2],
    layer: &Layer,
    sentence: usize,
    row: usize,
    weights: &[f32],
) {
    let (length, tokens) = (layer.lengths[sentence], &layer.tokens[sentence]);
    let baseline = y + 13.5;
    text(svg, [x + LABEL - 8.0, baseline], "end", 12.0, "#1b1f28", &shortened(&tokens[row], 9));
    let mut at = x + LABEL;
    let mut piece = |svg: &mut String, share: f64, fill: &str, ink: &str, label: &str| {
        let wide = share * BAR;
        rectangle(svg, [at, y, (wide - 1.0).max(0.0), THICKNESS], fill);
        if label.chars().count() as f64 * CHARACTER + 6.0 < wide {
            text(svg, [at + wide / 2.0, baseline], "middle", 11.0, ink, label);
        }
        at += wide;
    };
    for (token, &weight) in tokens.iter().zip(&weights[..length]) {
        piece(svg, weight.into(), WORD, "#fff", token);
    }
    let padding: f64 = weights[length..].iter().map(|&weight| f64::from(weight)).sum();
    if padding > 0.0 {
        piece(svg, padding, "url(#hatch)", "#1b1f28", &format!("padding {:.0} %", 100.0 * padding));
    }
}

fn rectangle(svg: &mut String, [x, y, width, height]: [f64; 4], fill: &str) {
    // Writing to a String can't fail.
    let _ = write!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
    );
}

fn text(svg: &mut String, [x, y]: [f64; 2], anchor: &str, size: f64, fill: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-family=\"Ubuntu\" font-size=\"{size}\" \
         fill=\"{fill}\">{words}</text>"
    );
}
