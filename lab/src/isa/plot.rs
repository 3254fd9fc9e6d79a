//! The report's plot: instructions per multiply-add of a step, this crate's and llama.cpp's, a bar each.

use std::fmt::Write as _;

use super::gpu::Gpu;
use super::table::{BESIDE, HEAD_DIMS, Row};
use crate::svg::text;

const BAR: f64 = 13.0;
const GAP: f64 = 10.0;
/// Of the names on the left.
const NAMES: f64 = 150.0;
/// Of one instruction per multiply-add.
const UNIT: f64 = 90.0;
/// Of a problem's column.
const COLUMN: f64 = 640.0;
const TOP: f64 = 40.0;

/// An SVG: a column for prefill and one for decode, in each a pair of bars per GPU and length of rows.
pub(super) fn steps(rows: &[Row], gpus: &[Gpu]) -> String {
    let mut bars = String::new();
    let mut bottom = 0.0_f64;
    let problems = BESIDE.into_iter().filter(|(problem, ..)| !problem.contains("matrices"));
    for (column, (problem, own, other)) in problems.enumerate() {
        let left = column as f64 * COLUMN;
        text(&mut bars, left + NAMES, TOP - 14.0, "title", problem);
        let mut top = TOP;
        for (gpu, head_dim) in
            gpus.iter().flat_map(|gpu| HEAD_DIMS.map(|head_dim| (gpu.name, head_dim)))
        {
            let label = format!("{gpu}, head_dim {head_dim}");
            text(&mut bars, left, top + BAR + 4.0, "name", &label);
            for (kernel, class) in [(own, "own"), (other, "other")] {
                let found = rows.iter().find(|row| {
                    let compiled = &row.compiled;
                    row.gpu == gpu
                        && (compiled.kernel.as_str(), compiled.head_dim) == (kernel, head_dim)
                        && compiled.dtype == "f16"
                });
                if let Some(work) = found.and_then(Row::work) {
                    let (x, width) = (left + NAMES, work * UNIT);
                    // Writing to a String can't fail.
                    let _ = writeln!(
                        bars,
                        "<rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
                    );
                    let value = format!("{work:.2}");
                    text(&mut bars, x + width + 4.0, top + BAR - 2.0, "value", &value);
                }
                top += BAR;
            }
            top += GAP;
        }
        bottom = bottom.max(top);
    }
    let (width, height) = (2.0 * COLUMN, bottom + 24.0);
    let mut legend = String::new();
    for (x, class, name) in
        [(NAMES, "own", "wgpu-attention"), (NAMES + 160.0, "other", "llama.cpp")]
    {
        let _ = writeln!(
            legend,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{bottom}\" width=\"{BAR}\" height=\"{BAR}\"/>"
        );
        text(&mut legend, x + BAR + 6.0, bottom + BAR - 2.0, "name", name);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.own {{ fill: #2f6fb0 }} .other {{ fill: #b9b9b9 }} .title {{ font-weight: bold }}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{bars}{legend}</svg>\n"
    )
}
