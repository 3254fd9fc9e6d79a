//! The picture as SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use resvg::tiny_skia;

use super::color::{self, Ink, Scale};
use super::layout::{self, Layout, Slot, lay_out};
use super::{Heatmap, Panel, Tiles};
use wgpu_attention::mask::TileClass;
use wgpu_attention::{Error, Result};

pub(super) const SANS: &str = "Ubuntu, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";
pub(super) const MONO: &str = "Hack, Menlo, Consolas, monospace";
pub(super) const DARK: &str = "#1c2330";
pub(super) const MUTED: &str = "#566072";
const HATCHED: &str = "url(#masked)";
/// The stripes of masked cells.
const HATCH: &str = r##"<pattern id="masked" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#f1f3f6"/><rect width="1.6" height="6" fill="#d3d8e0"/></pattern>"##;

/// The tints of tiles that are skipped, partial and full, in the order of [`TileClass`], and how much they cover.
const TINTS: [(&str, f64); 3] = [("#ffffff", 0.75), ("#f59e0b", 0.5), ("#1e1b6b", 0.4)];
/// Tiles that are narrower are drawn without edges.
const SMALLEST_TILE: f64 = 4.0;

/// Matrices with smaller cells are embedded as images, with one pixel per cell or fewer.
const SMALLEST_CELL: f64 = 4.0;
/// How many cells of a figure are drawn as shapes at most.
const MOST_SHAPES: usize = 60_000;
/// An embedded image has at most so many pixels per unit: what the PNG resolves.
const PIXELS_PER_UNIT: f64 = 2.0;

pub(super) fn draw(figure: &Heatmap) -> Result<String> {
    let scale = Scale::new(figure);
    let layout = lay_out(figure, &scale);
    let mut svg = Svg { text: String::new(), figure, layout: &layout, scale };
    svg.page();
    svg.header();
    let cells: usize = figure.panels.iter().map(|panel| panel.values.len()).sum();
    for (panel, slot) in figure.panels.iter().zip(&layout.slots) {
        svg.panel(panel, slot, cells <= MOST_SHAPES)?;
    }
    svg.axes();
    svg.legend();
    svg.text.push_str("</svg>\n");
    Ok(svg.text)
}

struct Svg<'a> {
    text: String,
    figure: &'a Heatmap,
    layout: &'a Layout,
    scale: Scale,
}

/// How a piece of text looks.
#[derive(Clone, Copy)]
struct Style {
    family: &'static str,
    size: f64,
    fill: &'static str,
    anchor: &'static str,
    upright: bool,
}

const fn style(family: &'static str, size: f64, fill: &'static str, anchor: &'static str) -> Style {
    Style { family, size, fill, anchor, upright: false }
}

/// Appends formatted text; writing to a String can't fail.
macro_rules! put {
    ($svg:expr, $($format:tt)*) => {{
        let _ = write!($svg.text, $($format)*);
    }};
}

impl Svg<'_> {
    fn page(&mut self) {
        let Layout { width, height, .. } = self.layout;
        put!(
            self,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">"#
        );
        put!(self, "\n<defs>{HATCH}</defs>\n");
        put!(self, "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n");
    }

    fn header(&mut self) {
        let layout = self.layout;
        let mut y = layout::MARGIN;
        for line in &layout.title {
            y += layout::TITLE_SIZE * 1.3;
            let at = (layout::MARGIN, y - layout::TITLE_SIZE * 0.4);
            self.write(at, line, style(SANS, layout::TITLE_SIZE, DARK, "start"));
        }
        for line in &layout.subtitle {
            y += layout::SUBTITLE_SIZE * 1.4;
            let at = (layout::MARGIN, y - layout::SUBTITLE_SIZE * 0.3);
            self.write(at, line, style(SANS, layout::SUBTITLE_SIZE, MUTED, "start"));
        }
    }

    fn panel(&mut self, panel: &Panel, slot: &Slot, shapes: bool) -> Result<()> {
        if !panel.title.is_empty() {
            let at = (slot.x, slot.y - 8.0);
            self.write(at, &panel.title, style(SANS, layout::PANEL_TITLE_SIZE, DARK, "start"));
        }
        let cell = slot.width / panel.columns.max(1) as f64;
        let cell = cell.min(slot.height / panel.rows.max(1) as f64);
        if panel.values.is_empty() {
            let middle = (slot.x + slot.width / 2.0, slot.y + slot.height / 2.0 + 4.0);
            self.write(middle, "∅", style(MONO, 12.0, MUTED, "middle"));
        } else if self.layout.numbers {
            self.numbered(panel, slot, cell);
        } else if shapes && cell >= SMALLEST_CELL {
            self.shapes(panel, slot);
        } else {
            self.image(panel, slot)?;
        }
        if let Some(tiles) = &panel.tiles {
            self.tiles(panel, tiles, slot);
        }
        if !self.layout.numbers {
            let Slot { x, y, width, height, .. } = slot;
            put!(
                self,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#aab2bf\"/>\n"
            );
        }
        self.ticks(slot);
        Ok(())
    }

    /// A small matrix: each cell a rounded square with its number in it.
    fn numbered(&mut self, panel: &Panel, slot: &Slot, cell: f64) {
        let size = ((cell - 7.0) / 2.75).min(15.0);
        for (index, &value) in panel.values.iter().enumerate() {
            let x = slot.x + (index % panel.columns) as f64 * cell;
            let y = slot.y + (index / panel.columns) as f64 * cell;
            let ink = self.scale.ink(value);
            put!(
                self,
                "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" rx=\"4\" fill=\"{}\"/>\n",
                x + 1.0,
                y + 1.0,
                paint(ink),
                side = cell - 2.0
            );
            let fill = match ink {
                Ink::Masked => MUTED,
                Ink::Scale(step) if color::takes_dark_text(color::step(step)) => DARK,
                _ => "#ffffff",
            };
            let at = (x + cell / 2.0, y + cell / 2.0 + size * 0.36);
            self.write(at, &number(value, self.scale.whole), style(MONO, size, fill, "middle"));
        }
    }

    /// A matrix as one path per colour.
    fn shapes(&mut self, panel: &Panel, slot: &Slot) {
        let width = slot.width / panel.columns as f64;
        let height = slot.height / panel.rows as f64;
        // Thin white lines between cells that are large enough.
        let line = if width.min(height) >= 14.0 { 1.0 } else { 0.0 };
        let mut paths: BTreeMap<Ink, String> = BTreeMap::new();
        for (row, cells) in panel.values.chunks(panel.columns).enumerate() {
            // Neighbours of one colour join, but where a line parts them.
            let mut column = 0;
            while let Some(&value) = cells.get(column) {
                let ink = self.scale.ink(value);
                let gap = if ink == Ink::Masked { 0.0 } else { line };
                let alike = |&&other: &&f32| gap == 0.0 && self.scale.ink(other) == ink;
                let run = 1 + cells[column + 1..].iter().take_while(alike).count();
                let (x, y) = (slot.x + column as f64 * width, slot.y + row as f64 * height);
                let (w, h) = (run as f64 * width - gap, height - gap);
                // Writing to a String can't fail.
                let _ = write!(paths.entry(ink).or_default(), "M{x} {y}h{w}v{h}h-{w}z");
                column += run;
            }
        }
        for (ink, path) in paths {
            put!(
                self,
                "<path fill=\"{}\" shape-rendering=\"crispEdges\" d=\"{path}\"/>\n",
                paint(ink)
            );
        }
    }

    /// A large matrix as an image over hatching, which shows where the image is transparent.
    fn image(&mut self, panel: &Panel, slot: &Slot) -> Result<()> {
        let Slot { x, y, width, height, .. } = slot;
        let png = self.pixels(panel, slot).and_then(|pixels| pixels.encode_png().ok());
        let png = png.ok_or_else(|| {
            Error::operand(
                "panel",
                "a matrix that an image can show",
                format!("{width} x {height}"),
            )
        })?;
        if self.scale.masked {
            put!(
                self,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{HATCHED}\"/>\n"
            );
        }
        put!(
            self,
            "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
             image-rendering=\"optimizeSpeed\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>\n",
            base64::engine::general_purpose::STANDARD.encode(png)
        );
        Ok(())
    }

    /// One pixel per cell, or the largest of a block of cells per pixel; masked where all of them are.
    fn pixels(&self, panel: &Panel, slot: &Slot) -> Option<tiny_skia::Pixmap> {
        let block = |cells: usize, extent: f64| {
            cells.div_ceil((extent * PIXELS_PER_UNIT).max(1.0) as usize).max(1)
        };
        let across = block(panel.columns, slot.width);
        let down = block(panel.rows, slot.height);
        let width = panel.columns.div_ceil(across);
        let height = panel.rows.div_ceil(down);
        let mut pixmap =
            tiny_skia::Pixmap::new(u32::try_from(width).ok()?, u32::try_from(height).ok()?)?;
        let largest = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
        let bands = panel.values.chunks(panel.columns * down);
        for (band, pixels) in bands.zip(pixmap.pixels_mut().chunks_mut(width)) {
            let mut values = vec![f32::NEG_INFINITY; width];
            for row in band.chunks(panel.columns) {
                for (value, cells) in values.iter_mut().zip(row.chunks(across)) {
                    *value = cells.iter().copied().fold(*value, largest);
                }
            }
            for (pixel, value) in pixels.iter_mut().zip(values) {
                let rgb = match self.scale.ink(value) {
                    Ink::Masked => continue,
                    Ink::Scale(step) => color::step(step),
                    Ink::NotANumber => color::NOT_A_NUMBER,
                };
                *pixel = tiny_skia::ColorU8::from_rgba(rgb[0], rgb[1], rgb[2], 255).premultiply();
            }
        }
        Some(pixmap)
    }

    /// Tints over the cells, a path for each class, and the tiles' edges where they are wide enough to be told apart.
    fn tiles(&mut self, panel: &Panel, tiles: &Tiles, slot: &Slot) {
        let across = tiles.across(panel).max(1);
        // The last tiles may be cut off.
        let x = |column: usize| {
            let key = (column * tiles.grid.block_kv).min(panel.columns);
            slot.width * key as f64 / panel.columns as f64
        };
        let y = |row: usize| {
            let query = (row * tiles.grid.block_q).min(panel.rows);
            slot.height * query as f64 / panel.rows as f64
        };
        let mut paths = [const { String::new() }; 3];
        for (row, classes) in tiles.classes.chunks(across).enumerate() {
            let mut column = 0;
            for run in classes.chunk_by(|a, b| a == b) {
                let (left, right) = (x(column), x(column + run.len()));
                // Writing to a String can't fail.
                let _ = write!(
                    paths[run[0] as usize],
                    "M{:.2} {:.2}h{:.2}v{:.2}h-{:.2}z",
                    slot.x + left,
                    slot.y + y(row),
                    right - left,
                    y(row + 1) - y(row),
                    right - left,
                );
                column += run.len();
            }
        }
        for (index, (path, (tint, opacity))) in paths.iter().zip(TINTS).enumerate() {
            put!(
                self,
                "<path class=\"tile{index}\" fill=\"{tint}\" fill-opacity=\"{opacity}\" shape-rendering=\"crispEdges\" d=\"{path}\"/>\n"
            );
        }
        let down = tiles.classes.len() / across;
        let narrowest = (slot.width / across as f64).min(slot.height / down.max(1) as f64);
        if narrowest < SMALLEST_TILE {
            return;
        }
        let mut edges = String::new();
        for column in 1..across {
            let _ = write!(edges, "M{:.2} {}v{}", slot.x + x(column), slot.y, slot.height);
        }
        for row in 1..down {
            let _ = write!(edges, "M{} {:.2}h{}", slot.x, slot.y + y(row), slot.width);
        }
        put!(
            self,
            "<path d=\"{edges}\" fill=\"none\" stroke=\"#ffffff\" stroke-opacity=\"0.55\" stroke-width=\"0.75\"/>\n"
        );
    }

    fn tiles_legend(&mut self, x: f64, y: f64) {
        let title = layout::tiles_title(self.figure);
        let dark = style(SANS, layout::LEGEND_SIZE, DARK, "start");
        self.write((x, y + layout::LEGEND_SIZE * 0.85), &title, dark);
        let names = [
            (TileClass::Full, "full"),
            (TileClass::Partial, "partial"),
            (TileClass::Skip, "not visited"),
        ];
        let mut y = y + layout::LEGEND_TITLE;
        for (class, name) in names {
            // Over what such tiles cover: kept cells, both, masked ones.
            let side = layout::BAR_WIDTH;
            let kept = match class {
                TileClass::Full => side,
                TileClass::Partial => side / 2.0,
                TileClass::Skip => 0.0,
            };
            let ink = paint(self.scale.ink(self.scale.high));
            let (tint, opacity) = TINTS[class as usize];
            put!(
                self,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{HATCHED}\"/>\n\
                 <rect x=\"{x}\" y=\"{y}\" width=\"{kept}\" height=\"{side}\" fill=\"{ink}\"/>\n\
                 <rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{tint}\" fill-opacity=\"{opacity}\" stroke=\"#aab2bf\" stroke-width=\"0.75\"/>\n"
            );
            let at = (x + side + 8.0, y + side / 2.0 + layout::LEGEND_SIZE * 0.35);
            self.write(at, name, dark);
            y += layout::SWATCH;
        }
    }

    fn ticks(&mut self, slot: &Slot) {
        let size = self.layout.tick_size;
        for tick in &slot.row_ticks {
            let at = (slot.x - layout::LABEL_GAP, slot.y + tick.at + size * 0.35);
            self.write(at, &tick.text, style(MONO, size, DARK, "end"));
        }
        let below = slot.y + slot.height + layout::LABEL_GAP;
        for tick in &slot.column_ticks {
            let x = slot.x + tick.at;
            if self.layout.upright {
                let upright = Style { upright: true, ..style(MONO, size, DARK, "end") };
                self.write((x + size * 0.35, below), &tick.text, upright);
            } else {
                self.write((x, below + size * 0.8), &tick.text, style(MONO, size, DARK, "middle"));
            }
        }
    }

    fn axes(&mut self) {
        let middle = style(SANS, layout::AXIS_SIZE, MUTED, "middle");
        self.write(self.layout.column_axis, &self.figure.column_axis, middle);
        let (x, y) = self.layout.row_axis;
        let upright = Style { upright: true, ..middle };
        self.write((x + layout::AXIS_SIZE / 2.0, y), &self.figure.row_axis, upright);
    }

    fn legend(&mut self) {
        let (x, mut y) = self.layout.legend;
        if !self.figure.legend.is_empty() {
            let at = (x, y + layout::LEGEND_SIZE * 0.85);
            let dark = style(SANS, layout::LEGEND_SIZE, DARK, "start");
            self.write(at, &self.figure.legend, dark);
            y += layout::LEGEND_TITLE;
        }
        if self.scale.any && self.scale.is_single() {
            let label = number(self.scale.low, self.scale.whole);
            self.swatch((x, y), paint(self.scale.ink(self.scale.low)), &label);
            y += layout::SWATCH;
        } else if self.scale.any {
            self.bar(x, y);
            y += self.layout.bar_length + layout::BAR_GAP;
        }
        if self.scale.masked {
            let label = &self.figure.masked;
            self.swatch((x, y), HATCHED.to_owned(), label);
            y += layout::SWATCH;
        }
        if self.scale.not_a_number {
            self.swatch((x, y), paint(Ink::NotANumber), "NaN");
            y += layout::SWATCH;
        }
        if self.figure.tiles().is_some() {
            self.tiles_legend(x, y + layout::TILES_GAP);
        }
    }

    fn swatch(&mut self, (x, y): (f64, f64), fill: String, label: &str) {
        let side = layout::BAR_WIDTH;
        put!(
            self,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" rx=\"2\" fill=\"{fill}\" stroke=\"#aab2bf\" stroke-width=\"0.75\"/>\n"
        );
        let at = (x + side + 8.0, y + side / 2.0 + layout::LEGEND_SIZE * 0.35);
        self.write(at, label, style(SANS, layout::LEGEND_SIZE, DARK, "start"));
    }

    /// The colour scale, the largest value at the top.
    fn bar(&mut self, x: f64, y: f64) {
        let length = self.layout.bar_length;
        let strip = length / 256.0;
        for step in 0..=255u8 {
            // A little overlap leaves no gaps where edges fall between pixels.
            put!(
                self,
                "<rect x=\"{x}\" y=\"{:.3}\" width=\"{}\" height=\"{:.3}\" fill=\"{}\"/>\n",
                y + length - strip * (f64::from(step) + 1.0),
                layout::BAR_WIDTH,
                strip + if step == 0 { 0.0 } else { 0.5 },
                paint(Ink::Scale(step))
            );
        }
        let (low, high) = (f64::from(self.scale.low), f64::from(self.scale.high));
        for (value, label) in marks(low, high, self.scale.square_root) {
            let at = y + length * (1.0 - self.scale.place(value));
            let right = x + layout::BAR_WIDTH;
            put!(self, "<path d=\"M{right} {at:.2}h5\" stroke=\"{MUTED}\"/>\n");
            let place = (right + 9.0, at + layout::LEGEND_SIZE * 0.35);
            self.write(place, &label, style(MONO, layout::LEGEND_SIZE - 1.0, DARK, "start"));
        }
    }

    fn write(&mut self, (x, y): (f64, f64), text: &str, style: Style) {
        let Style { family, size, fill, anchor, upright } = style;
        put!(
            self,
            "<text x=\"{x:.2}\" y=\"{y:.2}\" font-family=\"{family}\" font-size=\"{size:.2}\" fill=\"{fill}\""
        );
        if anchor != "start" {
            put!(self, " text-anchor=\"{anchor}\"");
        }
        if upright {
            put!(self, " transform=\"rotate(-90 {x:.2} {y:.2})\"");
        }
        put!(self, ">{}</text>\n", escape(text));
    }
}

fn paint(ink: Ink) -> String {
    match ink {
        Ink::Scale(step) => color::hex(color::step(step)),
        Ink::Masked => HATCHED.to_owned(),
        Ink::NotANumber => color::hex(color::NOT_A_NUMBER),
    }
}

/// A cell's number, in few characters and with a real minus sign.
fn number(value: f32, whole: bool) -> String {
    let text = match value.abs() {
        _ if value.is_nan() => "NaN".to_owned(),
        f32::INFINITY => if value > 0.0 { "∞" } else { "-∞" }.to_owned(),
        size if size >= 1e4 => format!("{value:.0e}"),
        size if whole || size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let is_zero = !text.contains(|c: char| matches!(c, '1'..='9' | '∞' | 'N'));
    if is_zero { text.replace('-', "") } else { text.replace('-', "−") }
}

/// Round values from `low` to `high` for the colour scale, with their labels.
/// The square root spreads the low end, so there is one more there.
fn marks(low: f64, high: f64, square_root: bool) -> Vec<(f64, String)> {
    let rough = (high - low) / 5.0;
    let unit = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * unit).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(10.0 * unit);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let label = |value: f64, decimals: usize| {
        let text = if decimals > 4 || value.abs() >= 1e5 {
            format!("{value:.1e}")
        } else {
            format!("{value:.decimals$}")
        };
        text.replace('-', "−")
    };
    let first = (low / step).ceil();
    // Where the values lie so close that f64 can't part them, the ends have to do.
    let mut marks: Vec<(f64, String)> = (0..8)
        .map(|index| (first + f64::from(index)) * step)
        .map(|value| if value.abs() < step / 2.0 { 0.0 } else { value })
        .take_while(|&value| value <= high + step * 1e-6)
        .map(|value| (value.clamp(low, high), label(value, decimals)))
        .collect();
    marks.dedup_by(|a, b| a.1 == b.1);
    if square_root {
        let value = low + step / 4.0;
        marks.push((value, label(value, decimals + 2)));
    }
    marks
}

/// Text for between tags. What XML can't hold at all becomes a replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' | '\r' => escaped.push(' '),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let text = |value| number(value, false);
        assert_eq!(
            [0.0, -0.001, 0.127, -1.5, 12.34, 123.4, -54321.0, f32::NEG_INFINITY].map(text),
            ["0.00", "0.00", "0.13", "−1.50", "12.3", "123", "−5e4", "−∞"]
        );
        assert_eq!([0.0, -3.0].map(|value| number(value, true)), ["0", "−3"]);
        assert_eq!(text(f32::NAN), "NaN");
    }

    #[test]
    fn marks_are_round() {
        let labels =
            |low, high| marks(low, high, false).into_iter().map(|mark| mark.1).collect::<Vec<_>>();
        assert_eq!(labels(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(-3.1, 2.4), ["−2", "0", "2"]);
        assert_eq!(labels(0.0, 0.37), ["0.0", "0.1", "0.2", "0.3"]);
        assert!(labels(-3e38, 3e38).len() >= 3 && labels(0.0, 1e-40).len() >= 3);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b>&\"c\"\u{0}\n"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd} ");
    }
}
