//! Where everything goes, in SVG units (pixels of a page at its normal size).

use super::color::Scale;
use super::{Heatmap, Panel};

/// White space around the figure.
pub(super) const MARGIN: f64 = 30.0;
pub(super) const TITLE_SIZE: f64 = 24.0;
pub(super) const SUBTITLE_SIZE: f64 = 14.0;
pub(super) const PANEL_TITLE_SIZE: f64 = 14.0;
pub(super) const AXIS_SIZE: f64 = 14.0;
pub(super) const LEGEND_SIZE: f64 = 12.0;
pub(super) const BAR_WIDTH: f64 = 16.0;
/// What the parts of the legend take, from top to top.
pub(super) const LEGEND_TITLE: f64 = 24.0;
pub(super) const BAR_GAP: f64 = 24.0;
pub(super) const SWATCH: f64 = 28.0;
/// Between the cells' legend and the tiles'.
pub(super) const TILES_GAP: f64 = 14.0;
/// Between a matrix and its labels.
pub(super) const LABEL_GAP: f64 = 6.0;
/// How wide a character is, as a share of the font's size: the tick labels' font is monospaced, the other one's
/// characters are about this wide on average.
const MONOSPACE: f64 = 0.603;
const PROPORTIONAL: f64 = 0.53;

/// The width that panels share.
pub(super) const GRID_WIDTH: f64 = 1240.0;
/// The most that one panel takes, and the least.
pub(super) const LARGEST_PANEL: f64 = 640.0;
pub(super) const SMALLEST_PANEL: f64 = 48.0;
const THINNEST_MATRIX: f64 = 24.0;
const GAP: f64 = 28.0;
/// Cells of this size have room for a number.
const NUMBER_CELL: f64 = 38.0;
/// Matrices beyond this are drawn without numbers, even where they're asked for.
const MOST_NUMBERS: usize = 40;
/// Longer labels are cut.
const LONGEST_LABEL: usize = 16;

/// One panel's place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slot {
    /// The matrix's upper left corner.
    pub(super) x: f64,
    pub(super) y: f64,
    /// The matrix's size.
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) row_ticks: Vec<Tick>,
    pub(super) column_ticks: Vec<Tick>,
}

/// A label beside a row or under a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// The middle of the row or column, from the matrix's corner.
    pub(super) at: f64,
    pub(super) text: String,
}

/// The whole figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) title: Vec<String>,
    pub(super) subtitle: Vec<String>,
    pub(super) slots: Vec<Slot>,
    pub(super) tick_size: f64,
    /// Whether column labels stand upright, turned by a quarter.
    pub(super) upright: bool,
    pub(super) numbers: bool,
    /// The middle of the rows' axis and of the columns'.
    pub(super) row_axis: (f64, f64),
    pub(super) column_axis: (f64, f64),
    /// The legend's upper left corner, and the length of its colour bar.
    pub(super) legend: (f64, f64),
    pub(super) bar_length: f64,
}

pub(super) fn lay_out(figure: &Heatmap, scale: &Scale) -> Layout {
    let columns = columns(figure);
    let cell = Cell::new(figure, columns);
    let matrices: Vec<(f64, f64)> = figure.panels.iter().map(|panel| cell.matrix(panel)).collect();
    let widest = matrices.iter().map(|size| size.0).fold(0.0, f64::max);

    let ticks: Vec<(Vec<Tick>, Vec<Tick>)> = (figure.panels.iter().zip(&matrices))
        .map(|(panel, size)| {
            (
                cell.ticks(&panel.row_labels, panel.rows, size.1),
                cell.ticks(&panel.column_labels, panel.columns, size.0),
            )
        })
        .collect();
    let row_space = LABEL_GAP + longest(ticks.iter().map(|ticks| &ticks.0)) * cell.tick_width();
    let longest_column = longest(ticks.iter().map(|ticks| &ticks.1)) * cell.tick_width();
    let upright = ticks.iter().any(|(_, ticks)| {
        let room = ticks.windows(2).map(|pair| pair[1].at - pair[0].at).fold(f64::MAX, f64::min);
        longest_column > room - 4.0
    });
    let column_space = LABEL_GAP + if upright { longest_column } else { cell.tick_size };

    // Panels that are labelled alike share their labels, at the figure's outer edges.
    let shared = figure.panels.windows(2).all(|pair| {
        pair[0].row_labels == pair[1].row_labels
            && pair[0].column_labels == pair[1].column_labels
            && (pair[0].rows, pair[0].columns) == (pair[1].rows, pair[1].columns)
    });
    let panel_title =
        if figure.panels.iter().any(|panel| !panel.title.is_empty()) { 24.0 } else { 0.0 };
    let (inner_rows, inner_columns) = if shared { (0.0, 0.0) } else { (row_space, column_space) };
    let pitch_x = widest + GAP + inner_rows;
    // Each row of panels is as high as its highest.
    let between_rows = GAP + inner_columns + panel_title;
    let mut row_tops = Vec::new();
    let mut next_top = 0.0;
    for row in matrices.chunks(columns) {
        row_tops.push(next_top);
        next_top += row.iter().map(|size| size.1).fold(0.0, f64::max) + between_rows;
    }

    let grid_x = MARGIN + AXIS_SIZE + 14.0 + row_space;
    let grid_width = pitch_x * columns as f64 - GAP - inner_rows;
    let legend_width = legend_width(figure);
    let width = (grid_x + grid_width + 34.0 + legend_width + MARGIN)
        .max(2.0 * MARGIN + text_width(&figure.title, TITLE_SIZE).min(560.0));
    let title = wrap(&figure.title, TITLE_SIZE, width - 2.0 * MARGIN);
    let subtitle = wrap(&figure.subtitle, SUBTITLE_SIZE, width - 2.0 * MARGIN);
    let header =
        title.len() as f64 * TITLE_SIZE * 1.3 + subtitle.len() as f64 * SUBTITLE_SIZE * 1.4;
    let grid_y = MARGIN + header + if header > 0.0 { 16.0 } else { 0.0 } + panel_title;
    let grid_height = next_top - between_rows;

    let slots = (matrices.iter().zip(ticks).enumerate())
        .map(|(index, (&(width, height), (row_ticks, column_ticks)))| {
            let (row, column) = (index / columns, index % columns);
            let leftmost = column == 0;
            let lowest = index + columns >= figure.panels.len();
            Slot {
                x: (grid_x + pitch_x * column as f64).round(),
                y: (grid_y + row_tops[row]).round(),
                width,
                height,
                row_ticks: if shared && !leftmost { Vec::new() } else { row_ticks },
                column_ticks: if shared && !lowest { Vec::new() } else { column_ticks },
            }
        })
        .collect();
    let column_axis_y = grid_y + grid_height + column_space + 12.0 + AXIS_SIZE;
    let bar_length = (grid_height - 80.0).clamp(100.0, 260.0);
    let legend_end = grid_y + legend_height(figure, scale, bar_length);
    Layout {
        width: width.ceil(),
        height: (column_axis_y + 4.0).max(legend_end).ceil() + MARGIN - 10.0,
        title,
        subtitle,
        slots,
        tick_size: cell.tick_size,
        upright,
        numbers: cell.numbers,
        row_axis: (MARGIN + AXIS_SIZE / 2.0, grid_y + grid_height / 2.0),
        column_axis: (grid_x + grid_width / 2.0, column_axis_y),
        legend: ((grid_x + grid_width + 34.0).round(), grid_y.round()),
        bar_length,
    }
}

/// How many panels stand side by side: what was asked for, or a number that fills its rows evenly.
fn columns(figure: &Heatmap) -> usize {
    let panels = figure.panels.len().max(1);
    if let Some(columns) = figure.columns {
        return columns.min(panels);
    }
    if panels <= 3 {
        return panels;
    }
    let square = (panels as f64).sqrt().ceil() as usize;
    let widest = (panels as f64 * 2.0).sqrt() as usize;
    (square..=widest).find(|columns| panels.is_multiple_of(*columns)).unwrap_or(square)
}

/// The size of cells and of what is written at them, common to all panels.
struct Cell {
    size: f64,
    tick_size: f64,
    numbers: bool,
    /// Whether there's room for every row's and column's own label.
    every_label: bool,
}

impl Cell {
    fn new(figure: &Heatmap, columns: usize) -> Self {
        let most = (figure.panels.iter())
            .map(|panel| panel.rows.max(panel.columns))
            .max()
            .unwrap_or(0)
            .max(1);
        let side =
            ((GRID_WIDTH + GAP) / columns as f64 - GAP).clamp(SMALLEST_PANEL, figure.largest_panel);
        let largest = if columns <= 3 { 56.0 } else { 44.0 };
        let mut size = (side / most as f64).min(largest);
        if figure.numbers == Some(true) && most <= MOST_NUMBERS {
            size = size.max(NUMBER_CELL);
        }
        // Whole units give sharp edges.
        let size = if size >= 1.0 { size.floor() } else { size };
        let numbers = figure.tiles().is_none()
            && figure.numbers.unwrap_or(most <= 12)
            && most <= MOST_NUMBERS
            && size >= NUMBER_CELL;
        let every_label = size >= 10.0;
        let tick_size = if every_label { (size - 1.5).clamp(9.0, 13.0) } else { 11.0 };
        Self { size, tick_size, numbers, every_label }
    }

    fn tick_width(&self) -> f64 {
        self.tick_size * MONOSPACE
    }

    /// A panel's width and height. Long thin ones are stretched so that they are seen.
    fn matrix(&self, panel: &Panel) -> (f64, f64) {
        let extent = |count: usize| (count as f64 * self.size).max(THINNEST_MATRIX).round();
        (extent(panel.columns), extent(panel.rows))
    }

    /// The labels along an axis of `count` cells: each cell's own, or numbers as near as they fit.
    fn ticks(&self, labels: &[String], count: usize, extent: f64) -> Vec<Tick> {
        let each = extent / count.max(1) as f64;
        let at = |index: usize| (index as f64 + 0.5) * each;
        if self.every_label && !labels.is_empty() {
            let label =
                |(index, label): (usize, &String)| Tick { at: at(index), text: shown(label) };
            let ticks = labels.iter().enumerate().filter(|(_, label)| !label.is_empty());
            return ticks.map(label).collect();
        }
        let digits = count.saturating_sub(1).max(1).ilog10() + 1;
        let room = f64::from(digits) * self.tick_width() + 10.0;
        let step = nice_step(room / each);
        (0..count)
            .step_by(step)
            .map(|index| Tick { at: at(index), text: index.to_string() })
            .collect()
    }
}

/// The smallest of 1, 2, 5, 10, 20, 50 … that is at least `least`.
fn nice_step(least: f64) -> usize {
    let mut unit = 1usize;
    loop {
        for step in [unit, 2 * unit, 5 * unit] {
            if step as f64 >= least || unit > usize::MAX / 20 {
                return step;
            }
        }
        unit *= 10;
    }
}

/// A label as it is shown: white space made visible, long ones cut.
fn shown(label: &str) -> String {
    let visible: String = label
        .chars()
        .flat_map(|c| match c {
            '\n' => vec!['\\', 'n'],
            '\t' => vec!['\\', 't'],
            '\r' => vec!['\\', 'r'],
            _ => vec![c],
        })
        .collect();
    if visible.chars().count() <= LONGEST_LABEL {
        return visible;
    }
    visible.chars().take(LONGEST_LABEL - 1).chain(['…']).collect()
}

fn longest<'a>(ticks: impl Iterator<Item = &'a Vec<Tick>>) -> f64 {
    ticks.flatten().map(|tick| tick.text.chars().count()).max().unwrap_or(0) as f64
}

fn legend_width(figure: &Heatmap) -> f64 {
    let labels = [&figure.masked, &figure.legend, &tiles_title(figure)]
        .map(|text| text_width(text, LEGEND_SIZE));
    (BAR_WIDTH + 8.0 + labels[0]).max(labels[1]).max(labels[2]).max(BAR_WIDTH + 60.0)
}

/// What stands above the tiles' legend; nothing where there are none.
pub(super) fn tiles_title(figure: &Heatmap) -> String {
    let title =
        |tiles: &super::Tiles| format!("tiles of {} × {}", tiles.grid.block_q, tiles.grid.block_kv);
    figure.tiles().map(title).unwrap_or_default()
}

fn legend_height(figure: &Heatmap, scale: &Scale, bar_length: f64) -> f64 {
    let part = |there: bool, height: f64| if there { height } else { 0.0 };
    part(!figure.legend.is_empty(), LEGEND_TITLE)
        + part(scale.any && !scale.is_single(), bar_length + BAR_GAP)
        + part(scale.any && scale.is_single(), SWATCH)
        + part(scale.masked, SWATCH)
        + part(scale.not_a_number, SWATCH)
        + part(figure.tiles().is_some(), TILES_GAP + LEGEND_TITLE + 3.0 * SWATCH)
}

fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * PROPORTIONAL
}

/// The text in lines that are no wider than `width`, broken at spaces.
fn wrap(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(word, size) + size <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let steps = [0.3, 1.0, 1.2, 2.5, 7.0, 11.0, 40.0].map(nice_step);
        assert_eq!(steps, [1, 1, 2, 5, 10, 20, 50]);
        assert!(nice_step(f64::INFINITY) > 1_000_000);
    }

    #[test]
    fn panels_fill_their_rows() {
        let columns = |panels| {
            let panel = Panel::new(1, 1, [0.0]);
            columns(&Heatmap::new("").panels(std::iter::repeat_n(panel, panels)))
        };
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 48].map(columns),
            [1, 1, 2, 3, 2, 3, 3, 4, 4, 4, 8]
        );
    }

    #[test]
    fn labels_are_cut_and_made_visible() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown("exactly sixteen!"), "exactly sixteen!");
        assert_eq!(shown("more than sixteen"), "more than sixte…");
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(wrap("one two three", 10.0, 60.0), ["one two", "three"]);
        assert_eq!(wrap("", 10.0, 60.0), [""; 0]);
        assert_eq!(wrap("unbreakable", 10.0, 1.0), ["unbreakable"]);
    }
}
