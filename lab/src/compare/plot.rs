//! docs/benchmarks.svg: for each shape a line, on it a dot for each contender's CPU time over that of this crate.

use std::fmt::Write as _;

use super::install::{self, OWN};
use super::results::{Results, Row};
use crate::svg::text;

const STEP: f64 = 26.0;
const NAMES: f64 = 372.0;
/// Of a doubling.
const OCTAVE: f64 = 84.0;
/// The least and the greatest ratio, as powers of two.
const SPAN: [i32; 2] = [-2, 5];
const TOP: f64 = 130.0;
const RADIUS: f64 = 5.5;
/// Okabe and Ito's colours, which colour-blind eyes tell apart.
const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#6b6b00", "#7a7a7a"];

/// The plot as SVG.
pub(super) fn ratios(results: &Results) -> String {
    let at = |ratio: f64| {
        let octaves = ratio.log2().clamp(f64::from(SPAN[0]), f64::from(SPAN[1]));
        NAMES + (octaves - f64::from(SPAN[0])) * OCTAVE
    };
    let mut contenders = results.distinct(|row| &row.contender);
    contenders.retain(|name| results.rows.iter().any(|row| shown(row) && row.contender == *name));
    contenders.sort_by_key(|name| install::place(name));
    let shapes: Vec<&str> = results
        .distinct(|row| &row.shape)
        .into_iter()
        .filter(|shape| results.of_shape(shape).any(shown))
        .collect();
    let bottom = TOP + shapes.len() as f64 * STEP;
    let width = NAMES + f64::from(SPAN[1] - SPAN[0]) * OCTAVE + 40.0;
    let mut svg = String::new();
    text(&mut svg, 16.0, 26.0, "title", "CPU time over that of wgpu-attention");
    text(
        &mut svg,
        16.0,
        46.0,
        "note",
        "1× is wgpu-attention, to the right is slower; a dot at the edge lies beyond it",
    );
    for (number, name) in contenders.iter().enumerate() {
        let (column, line) = ((number % 4) as f64, (number / 4) as f64);
        let (x, y) = (24.0 + column * 200.0, 74.0 + line * 20.0);
        dot(&mut svg, x, y - 4.0, COLORS[number % COLORS.len()], name);
        text(&mut svg, x + 12.0, y, "name", name);
    }
    for power in SPAN[0]..=SPAN[1] {
        let (x, ratio) = (at(2f64.powi(power)), 2f64.powi(power));
        let class = if power == 0 { "own" } else { "grid" };
        // Writing to a String can't fail.
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{x:.1} {TOP}V{bottom:.1}\"/>");
        text(&mut svg, x - 8.0, TOP - 8.0, "note", &format!("{ratio}×"));
    }
    for (number, shape) in shapes.iter().enumerate() {
        let y = TOP + (number as f64 + 0.5) * STEP;
        text(&mut svg, 16.0, y + 4.0, "name", shape);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{NAMES} {y:.1}H{:.1}\"/>", width - 40.0);
        for row in results.of_shape(shape) {
            let place = contenders.iter().position(|name| *name == row.contender);
            if let (Some(place), Some(ratio)) = (place, row.right_cpu_ratio()) {
                let about = format!("{}: {ratio:.2}", row.contender);
                dot(&mut svg, at(ratio), y, COLORS[place % COLORS.len()], &about);
            }
        }
    }
    let height = bottom + 20.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.title {{ font-size: 16px; font-weight: bold }} .note {{ fill: #5a6270 }} .grid {{ stroke: #dfe3ea }} \
         .own {{ stroke: #000000; stroke-width: 1.5 }}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{svg}</svg>\n"
    )
}

/// This crate is the line at 1.
fn shown(row: &Row) -> bool {
    row.contender != OWN && row.right_cpu_ratio().is_some()
}

fn dot(svg: &mut String, x: f64, y: f64, color: &str, about: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\" fill=\"{color}\" fill-opacity=\"0.85\"><title>{about}</title></circle>"
    );
}
