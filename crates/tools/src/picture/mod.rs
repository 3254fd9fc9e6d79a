//! Pictures: masks, scores and weights as heatmaps with labelled axes, and measurements as bars; as SVG and as PNG.
//!
//! Of a heatmap, rows are queries, from the top; columns are keys, from the left. A cell of −∞ is masked and drawn hatched, NaN
//! is drawn in red. Nothing but the fonts in the program is used, so a picture looks the same everywhere.

mod bars;
mod color;
mod layout;
mod raster;
mod svg;

use std::path::Path;

pub use bars::{Bar, Bars};

use wgpu_attention::mask::{TileClass, TileGrid};
use wgpu_attention::{Error, Result};

/// A figure of one or more matrices that share a colour scale.
///
/// ```
/// use wgpu_attention_tools::picture::{Heatmap, Panel};
/// let weights = [1.0, f32::NEG_INFINITY, 0.3, 0.7];
/// let figure = Heatmap::new("A causal mask")
///     .subtitle("the weights of two tokens")
///     .legend("weight")
///     .panel(Panel::new(2, 2, weights).title("head 0").labels(["Hello", "world"]));
/// let svg = figure.to_svg()?;
/// assert!(svg.starts_with("<svg") && svg.contains("world"));
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Heatmap {
    title: String,
    subtitle: String,
    legend: String,
    masked: String,
    row_axis: String,
    column_axis: String,
    range: Option<(f32, f32)>,
    square_root: bool,
    columns: Option<usize>,
    largest_panel: f64,
    numbers: Option<bool>,
    panels: Vec<Panel>,
}

/// Any SVG as PNG, two pixels to one of its units, with the fonts that heatmaps have: a sans-serif and a monospaced one.
///
/// ```
/// let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><circle r="8"/></svg>"#;
/// assert!(wgpu_attention_tools::picture::rasterize(svg)?.starts_with(b"\x89PNG"));
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] where it isn't an SVG or can't be drawn.
pub fn rasterize(svg: &str) -> Result<Vec<u8>> {
    raster::png(svg)
}

/// One matrix of a [`Heatmap`].
#[derive(Debug, Clone)]
pub struct Panel {
    title: String,
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    row_labels: Vec<String>,
    column_labels: Vec<String>,
    tiles: Option<Tiles>,
}

/// The tiles that are drawn over a matrix.
#[derive(Debug, Clone)]
struct Tiles {
    grid: TileGrid,
    /// Row by row.
    classes: Vec<TileClass>,
}

impl Tiles {
    /// Tiles along the columns of a matrix.
    const fn across(&self, panel: &Panel) -> usize {
        panel.columns.div_ceil(self.grid.block_kv)
    }
}

impl Panel {
    /// A matrix of `rows × columns` values, row by row: one `[seq_len_q, seq_len_kv]` plane of a tensor.
    pub fn new(rows: usize, columns: usize, values: impl Into<Vec<f32>>) -> Self {
        Self {
            title: String::new(),
            rows,
            columns,
            values: values.into(),
            row_labels: Vec::new(),
            column_labels: Vec::new(),
            tiles: None,
        }
    }

    /// What stands above the matrix.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// The tokens, of rows and columns alike. Without labels, positions are numbered.
    #[must_use]
    pub fn labels<S: Into<String>>(self, labels: impl IntoIterator<Item = S>) -> Self {
        let labels: Vec<String> = labels.into_iter().map(Into::into).collect();
        Self { row_labels: labels.clone(), column_labels: labels, ..self }
    }

    /// The rows' tokens.
    #[must_use]
    pub fn row_labels<S: Into<String>>(self, labels: impl IntoIterator<Item = S>) -> Self {
        Self { row_labels: labels.into_iter().map(Into::into).collect(), ..self }
    }

    /// The columns' tokens.
    #[must_use]
    pub fn column_labels<S: Into<String>>(self, labels: impl IntoIterator<Item = S>) -> Self {
        Self { column_labels: labels.into_iter().map(Into::into).collect(), ..self }
    }

    /// Draws the cells for which `masked(row, column)` holds as masked, whatever their value.
    #[must_use]
    pub fn mask_where(mut self, masked: impl Fn(usize, usize) -> bool) -> Self {
        for (row, cells) in self.values.chunks_mut(self.columns.max(1)).enumerate() {
            for (column, cell) in cells.iter_mut().enumerate() {
                if masked(row, column) {
                    *cell = f32::NEG_INFINITY;
                }
            }
        }
        self
    }

    /// Draws the classes of a mask's tiles over it: one plane of [`wgpu_attention::plan::TileClasses`].
    #[must_use]
    pub fn tiles(self, grid: TileGrid, classes: impl Into<Vec<TileClass>>) -> Self {
        Self { tiles: Some(Tiles { grid, classes: classes.into() }), ..self }
    }

    fn check_tiles(&self, tiles: &Tiles) -> Result<()> {
        let name = format!("tiles of panel `{}`", self.title);
        let TileGrid { block_q, block_kv } = tiles.grid;
        if block_q == 0 || block_kv == 0 {
            return Err(Error::operand(name, "blocks of at least 1", format!("{:?}", tiles.grid)));
        }
        let expected = self.rows.div_ceil(block_q) * tiles.across(self);
        if tiles.classes.len() == expected {
            return Ok(());
        }
        Err(Error::operand(name, expected, tiles.classes.len()))
    }

    fn check(&self) -> Result<()> {
        self.tiles.as_ref().map_or(Ok(()), |tiles| self.check_tiles(tiles))?;
        let name = |what: &str| format!("{what} of panel `{}`", self.title);
        let cells = self.rows.checked_mul(self.columns).ok_or_else(|| {
            Error::operand(name("values"), "a number of cells that fits the address space", "more")
        })?;
        let counts = [
            ("values", self.values.len(), cells, false),
            ("row labels", self.row_labels.len(), self.rows, true),
            ("column labels", self.column_labels.len(), self.columns, true),
        ];
        for (what, found, expected, optional) in counts {
            if found != expected && !(optional && found == 0) {
                return Err(Error::operand(name(what), expected, found));
            }
        }
        Ok(())
    }
}

impl Heatmap {
    /// A figure without panels.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            subtitle: String::new(),
            legend: String::new(),
            masked: "−∞ (masked)".to_owned(),
            row_axis: "query".to_owned(),
            column_axis: "key".to_owned(),
            range: None,
            square_root: false,
            columns: None,
            largest_panel: layout::LARGEST_PANEL,
            numbers: None,
            panels: Vec::new(),
        }
    }

    /// What stands smaller under the title.
    #[must_use]
    pub fn subtitle(self, subtitle: impl Into<String>) -> Self {
        Self { subtitle: subtitle.into(), ..self }
    }

    /// What the colours mean, above their scale.
    #[must_use]
    pub fn legend(self, legend: impl Into<String>) -> Self {
        Self { legend: legend.into(), ..self }
    }

    /// What a masked cell is called in the legend; `−∞ (masked)` unless said.
    #[must_use]
    pub fn masked_legend(self, masked: impl Into<String>) -> Self {
        Self { masked: masked.into(), ..self }
    }

    /// What rows and columns are; `query` and `key` unless said.
    #[must_use]
    pub fn axes(self, rows: impl Into<String>, columns: impl Into<String>) -> Self {
        Self { row_axis: rows.into(), column_axis: columns.into(), ..self }
    }

    /// The values of the darkest and the brightest colour. Unless said: the smallest, or 0 if none is negative, and
    /// the largest.
    #[must_use]
    pub fn range(self, low: f32, high: f32) -> Self {
        Self { range: Some((low, high)), ..self }
    }

    /// Colours go by the square root of a value's place in the range, so that small weights are told apart.
    #[must_use]
    pub fn square_root(self) -> Self {
        Self { square_root: true, ..self }
    }

    /// How many panels stand side by side, at least 1; chosen by their number unless said.
    #[must_use]
    pub fn columns(self, columns: usize) -> Self {
        Self { columns: Some(columns.max(1)), ..self }
    }

    /// The longest side that a panel may have, in pixels of the SVG; 640 unless said.
    #[must_use]
    pub fn largest_panel(self, side: f64) -> Self {
        let side = if side.is_nan() { layout::LARGEST_PANEL } else { side };
        Self { largest_panel: side.clamp(layout::SMALLEST_PANEL, layout::GRID_WIDTH), ..self }
    }

    /// Whether each cell's number is written into it; where matrices are small unless said.
    #[must_use]
    pub fn numbers(self, numbers: bool) -> Self {
        Self { numbers: Some(numbers), ..self }
    }

    /// Adds a matrix, after those that are there.
    #[must_use]
    pub fn panel(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// Adds matrices, after those that are there.
    #[must_use]
    pub fn panels(mut self, panels: impl IntoIterator<Item = Panel>) -> Self {
        self.panels.extend(panels);
        self
    }

    /// The picture as SVG, text.
    ///
    /// # Errors
    /// [`Error::Operand`] where a panel's values or labels aren't as many as its sizes say, or the range isn't two
    /// finite numbers in order.
    pub fn to_svg(&self) -> Result<String> {
        self.check()?;
        svg::draw(self)
    }

    /// The picture as PNG, two pixels to one of the SVG's units, fewer where it would be enormous.
    ///
    /// # Errors
    /// As [`Heatmap::to_svg`], and [`Error::File`] where the picture can't be drawn.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        raster::png(&self.to_svg()?)
    }

    /// Writes the picture: SVG where the name ends in `.svg`, else PNG. Folders on the way are made.
    ///
    /// # Errors
    /// As [`Heatmap::to_png`], and [`Error::File`] where it can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save(path.as_ref(), &self.to_svg()?)
    }

    /// The tiles that the legend explains: those of the first panel that has some.
    fn tiles(&self) -> Option<&Tiles> {
        self.panels.iter().find_map(|panel| panel.tiles.as_ref())
    }

    fn check(&self) -> Result<()> {
        if let Some((low, high)) = self.range
            && !(low.is_finite() && high.is_finite() && low <= high)
        {
            return Err(Error::operand(
                "range",
                "two finite numbers, the smaller one first",
                format!("{low} and {high}"),
            ));
        }
        self.panels.iter().try_for_each(Panel::check)
    }
}

/// Writes a picture: as it is where the name ends in `.svg`, else as PNG.
fn save(path: &Path, svg: &str) -> Result<()> {
    let contents = match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("svg") => svg.as_bytes().to_vec(),
        _ => raster::png(svg)?,
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, contents)).map_err(|error| {
        Error::File { path: path.display().to_string(), message: error.to_string() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The PNG's width and height, and how many of its pixels have this colour.
    fn decoded(png: &[u8], [r, g, b]: [u8; 3]) -> (u32, u32, usize) {
        let pixmap = resvg::tiny_skia::Pixmap::decode_png(png).unwrap();
        let same = |pixel: &&resvg::tiny_skia::PremultipliedColorU8| {
            (pixel.red(), pixel.green(), pixel.blue()) == (r, g, b)
        };
        (pixmap.width(), pixmap.height(), pixmap.pixels().iter().filter(same).count())
    }

    #[test]
    fn cells_have_the_colours_of_their_values() {
        let values = [0.0, 1.0, f32::NAN, f32::NEG_INFINITY];
        let figure = Heatmap::new("").numbers(false).panel(Panel::new(2, 2, values));
        let svg = figure.to_svg().unwrap();
        for fill in ["#440154", "#fde725", "#e01e37", "url(#masked)"] {
            assert!(svg.contains(&format!("<path fill=\"{fill}\"")), "{fill} is missing");
        }
        // A cell is 56 units wide less its gap, so 110 pixels.
        let (_, _, red) = decoded(&figure.to_png().unwrap(), [0xe0, 0x1e, 0x37]);
        assert!(red >= 110 * 110, "{red} red pixels");
    }

    #[test]
    fn hostile_text_stays_text() {
        let evil = "</text><script>&\u{0}\u{1b}\"'";
        let panel = Panel::new(1, 1, [1.0]).title(evil).labels([evil]);
        let figure = Heatmap::new(evil).subtitle(evil).legend(evil).axes(evil, evil).panel(panel);
        assert!(!figure.to_svg().unwrap().contains("<script"));
        figure.to_png().unwrap();
    }

    #[test]
    fn tiles_are_drawn_over_the_cells() {
        let grid = TileGrid { block_q: 2, block_kv: 3 };
        let classes = [TileClass::Full, TileClass::Skip, TileClass::Partial, TileClass::Partial];
        let figure = Heatmap::new("").panel(Panel::new(3, 4, [0.0; 12]).tiles(grid, classes));
        let svg = figure.to_svg().unwrap();
        for text in ["tiles of 2 × 3", "not visited", "partial", "full"] {
            assert!(svg.contains(&format!(">{text}</text>")), "{text} is missing");
        }
        // Cells are 56 units wide; the tiles at the edges are cut off.
        for (class, area) in [(0, "h56.00v112.00"), (1, "h224.00v56.00"), (2, "h168.00v112.00")] {
            let path = svg.split(&format!("class=\"tile{class}\" ")).nth(1).unwrap();
            let path = path.split("/>").next().unwrap();
            assert!(path.contains(area), "{area} isn't in {path}");
        }
        figure.to_png().unwrap();
    }

    #[test]
    fn large_and_odd_matrices_are_drawn() {
        let ramp = |rows: usize, columns: usize| {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            Panel::new(rows, columns, values)
        };
        for (rows, columns) in [(2048, 2048), (1, 4096), (3000, 2), (0, 5), (1, 1)] {
            let png = Heatmap::new("odd").panel(ramp(rows, columns)).to_png().unwrap();
            let (width, height, _) = decoded(&png, [0; 3]);
            assert!(width < 4000 && height < 4000, "{rows} x {columns}: {width} x {height}");
        }
        let many = Heatmap::new("").panels(std::iter::repeat_n(ramp(30, 30), 400));
        let (width, height, _) = decoded(&many.to_png().unwrap(), [0; 3]);
        assert!(u64::from(width) * u64::from(height) < 41_000_000, "{width} x {height}");
        Heatmap::new("no panel").to_png().unwrap();
    }

    #[test]
    fn a_fault_in_a_block_of_cells_is_seen() {
        let mut values = vec![0.5; 3000 * 3000];
        values[3000 * 1500 + 777] = f32::NAN;
        let figure = Heatmap::new("").panel(Panel::new(3000, 3000, values));
        // The legend's swatch is red, and one pixel of the matrix.
        let (_, _, red) = decoded(&figure.to_png().unwrap(), [0xe0, 0x1e, 0x37]);
        let svg = figure.to_svg().unwrap();
        assert!(red > 0 && svg.contains("<image"), "{red} red pixels");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |panel: Panel| {
            Heatmap::new("").panel(panel.title("p")).to_svg().unwrap_err().to_string()
        };
        assert_eq!(message(Panel::new(2, 2, [0.0; 3])), "values of panel `p`: expected 4, found 3");
        assert_eq!(
            message(Panel::new(1, 2, [0.0; 2]).row_labels(["a", "b"])),
            "row labels of panel `p`: expected 1, found 2"
        );
        let grid = TileGrid { block_q: 2, block_kv: 1 };
        assert_eq!(
            message(Panel::new(3, 2, [0.0; 6]).tiles(grid, [TileClass::Full])),
            "tiles of panel `p`: expected 4, found 1"
        );
        let grid = TileGrid { block_q: 0, block_kv: 1 };
        assert!(message(Panel::new(1, 1, [0.0]).tiles(grid, [])).contains("at least 1"));
        let error = Heatmap::new("").range(1.0, f32::NAN).to_svg().unwrap_err();
        assert!(error.to_string().starts_with("range: expected two finite numbers"), "{error}");
    }
}
