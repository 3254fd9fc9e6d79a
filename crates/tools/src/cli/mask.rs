//! `mask`: a mask as text and as a picture.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::bail;
use clap::ValueEnum;
use wgpu_attention::mask::{TileClass, TileGrid};
use wgpu_attention::plan::{MaskFormat, MaskTensor, TileClasses, TileOptions};
use wgpu_attention::{AuxData, Mask, Problem, Session, Shape};
use wgpu_attention_tools::files::TensorFile;
use wgpu_attention_tools::picture::{Heatmap, Panel};

use crate::function;
use crate::places::{self, Place};
use crate::sanitized::Sanitize;
use crate::talk::Talk;
use crate::tensors::{self, Names};

/// Print a mask, computed on the device.
///
/// There is a row per query and a column per key. A mask that differs between sequences or heads is printed once for each,
/// under a heading.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", crate::MASKS))]
pub(crate) struct Arguments {
    /// The mask; see MASKS below.
    #[arg(value_name = "TEXT")]
    mask: String,

    /// The number of queries, and of keys without --seq-kv.
    #[arg(long, value_name = "N")]
    seq: usize,

    /// The number of keys.
    #[arg(long, value_name = "N")]
    seq_kv: Option<usize>,

    /// The number of heads; by default, as many as the mask's tensors have, and as `per_head` has masks.
    #[arg(long, value_name = "N")]
    heads: Option<usize>,

    /// The file with the tensors that the mask reads. Their first size is the batch.
    #[arg(long, value_name = "FILE.safetensors")]
    data: Option<PathBuf>,

    #[command(flatten)]
    names: Names,

    /// The file with the user-defined WGSL function `keep` of the mask `wgsl`. It can read the tensors of --data.
    #[arg(long, value_name = "FILE")]
    wgsl_mask: Option<PathBuf>,

    /// The token id of padding; by default, `pad_id` in the file's metadata.
    #[arg(long, value_name = "ID", requires = "data", allow_negative_numbers = true)]
    pad_id: Option<i32>,

    /// The form in which the mask is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Also draw a heatmap to a .png or .svg file. With --quiet, nothing is printed.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,

    /// Print how many of the kernel's tiles are visited; with --png, also draw them.
    ///
    /// Tiles that are known to be masked are skipped. In `partial` tiles the mask is evaluated for each cell, in `full` tiles it
    /// isn't evaluated. `ideal` counts the tiles with at least one kept cell.
    #[arg(long, conflicts_with = "format")]
    tiles: bool,

    /// The number of queries in a tile; by default, that of the kernel for head_dim 64.
    #[arg(long, value_name = "N", requires = "tiles")]
    block_q: Option<usize>,

    /// The number of keys in a tile; by default, that of the kernel for head_dim 64.
    #[arg(long, value_name = "N", requires = "tiles")]
    block_kv: Option<usize>,

    #[command(flatten)]
    device: crate::Device,

    #[command(flatten)]
    sanitize: Sanitize,

    /// Print one JSON object per sequence and head instead of text: keep[query][key] is 1 where the key is kept. With
    /// --tiles, the numbers of tiles.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

const EXAMPLES: &str = "\
EXAMPLES
  wgpu-attention mask causal --seq 3
    [[  0.  -inf  -inf]
     [  0.    0.  -inf]
     [  0.    0.    0.]]
  wgpu-attention mask causal --seq 3 --format keep
    [[1 0 0]
     [1 1 0]
     [1 1 1]]
  wgpu-attention mask causal --seq 3 --format grid
    t=1:  .  X  X
    t=2:  .  .  X
    t=3:  .  .  .
  wgpu-attention mask 'window(2,0) & key_lengths' --seq 27 --data in.safetensors --png mask.png
  wgpu-attention mask 'per_head(causal, window(4,0))' --seq 12 --heads 8
  wgpu-attention mask 'window(255,0)' --seq 1024 --tiles --png tiles.png
  wgpu-attention mask wgsl --wgsl-mask keep.wgsl --seq 40 --data in.safetensors --sanitize";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// 0 where a key is kept and -inf where it is masked: what is added to the scores
    #[default]
    Additive,
    /// 1 where a key is kept and 0 where it is masked
    Keep,
    /// `.` where a key is kept and `X` where it is masked
    Grid,
}

/// How many tiles of a plane there are, of each class, and with a kept cell.
struct TileCounts {
    tiles: usize,
    partial: usize,
    full: usize,
    ideal: usize,
}

/// One sequence's and head's part of a mask.
struct Plane<'a> {
    /// What it is of, where there are several.
    heading: String,
    /// The sequence, where there are several.
    batch: Option<usize>,
    /// The head, likewise.
    head: Option<usize>,
    rows: usize,
    columns: usize,
    values: &'a [f32],
    /// The value of a masked cell.
    masked: f32,
}

pub(crate) fn show(arguments: &Arguments, talk: Talk) -> anyhow::Result<()> {
    let inputs = [arguments.data.as_deref(), arguments.wgsl_mask.as_deref()];
    let png = arguments.png.as_deref().map(|path| Place::picture("--png", path)).transpose()?;
    places::check(png.as_slice(), &inputs)?;
    let file = arguments.names.open_some(arguments.data.as_deref())?;
    let read = |path: &PathBuf| function::read(path, file.as_ref());
    let keep = arguments.wgsl_mask.as_ref().map(read).transpose()?;
    let mask = function::mask(&arguments.mask, keep.as_ref())?;
    let (seq, seq_kv) = (arguments.seq, arguments.seq_kv.unwrap_or(arguments.seq));
    let shape = match (&file, mask.aux_tensors().first()) {
        (Some(file), _) => file.mask_shape(&mask, seq, seq_kv)?,
        (None, None) => Shape::new(1, 1, seq, 1).seq_len_kv(seq_kv),
        (None, Some(input)) => bail!(
            "{input} is required by the mask: give the file that holds it with --data FILE.safetensors"
        ),
    };
    let heads = arguments.heads.unwrap_or_else(|| shape.num_heads.max(masks_per_head(&mask)));
    let shape = shape.num_heads(heads).num_kv_heads(heads);
    let data = match &file {
        Some(file) => (file.mask_data(&mask, &shape, arguments.pad_id))
            .map_err(|error| tensors::explained(file, error))?,
        None => AuxData::new(),
    };
    let data = match (&keep, &file) {
        (Some(function), Some(file)) => file.custom_data(function, data)?,
        _ => data,
    };
    arguments.sanitize.check_mask(&shape)?;
    let sanitized = arguments.sanitize.device(&[("keep", arguments.wgsl_mask.as_deref())])?;
    let attention = match &sanitized {
        Some(sanitized) => sanitized.session.clone(),
        None => arguments.device.open(talk)?,
    };
    let format = match arguments.format {
        Format::Keep => MaskFormat::Keep,
        Format::Additive | Format::Grid => MaskFormat::Additive,
    };
    let problem = Problem::new(shape).mask(mask.clone());
    let tensor = attention.materialize_blocking(&problem, &data, format)?;
    let planes = planes(&tensor, arguments.format);
    let tiles = if arguments.tiles {
        let problem = Problem::new(shape.head_dim(64).head_dim_v(64)).mask(mask.clone());
        Some(tile_classes(arguments, &attention, &problem, &data)?)
    } else {
        None
    };
    if let Some(sanitized) = sanitized {
        sanitized.check(talk)?;
    }
    // The picture first: whoever reads the text may stop early.
    if let Some(path) = &arguments.png {
        draw(&mask, &planes, arguments.format, file.as_ref(), tiles.as_ref()).save(path)?;
    }
    if arguments.json {
        return crate::print(|out| {
            (planes.iter().enumerate()).try_for_each(|(at, plane)| {
                let counts = tiles.as_ref().map(|tiles| plane.tile_counts(tiles, at));
                writeln!(out, "{}", plane.record(tiles.as_ref().map(|tiles| tiles.grid), counts))
            })
        });
    }
    if talk.quiet && arguments.png.is_some() {
        return Ok(());
    }
    if let Some(tiles) = &tiles {
        return crate::print(|out| tile_table(out, &planes, tiles));
    }
    crate::print(|out| {
        for (index, plane) in planes.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            if !plane.heading.is_empty() {
                writeln!(out, "{}:", plane.heading)?;
            }
            match arguments.format {
                Format::Additive => matrix(out, plane, "  ", |value| match value {
                    0.0 => "  0.",
                    _ => "-inf",
                })?,
                Format::Keep => matrix(out, plane, " ", |value| match value {
                    0.0 => "0",
                    _ => "1",
                })?,
                Format::Grid => grid(out, plane)?,
            }
        }
        Ok(())
    })
}

/// How many masks the longest `per_head` has: as many heads are the fewest that it can do with.
fn masks_per_head(mask: &Mask) -> usize {
    match mask {
        Mask::And(a, b) | Mask::Or(a, b) => masks_per_head(a).max(masks_per_head(b)),
        Mask::Not(a) | Mask::SelfOnlyIfAlone(a) => masks_per_head(a),
        Mask::PerHead(masks) => {
            masks.iter().map(masks_per_head).max().unwrap_or(0).max(masks.len())
        }
        _ => 1,
    }
}

/// The classes of tiles of the size that is asked for, the rest of it being the kernel's own.
fn tile_classes(
    arguments: &Arguments,
    attention: &Session,
    problem: &Problem,
    data: &AuxData,
) -> anyhow::Result<TileClasses> {
    let own = attention.tile_classes_blocking(problem, data, &Default::default())?;
    let grid = TileGrid {
        block_q: arguments.block_q.unwrap_or(own.grid.block_q),
        block_kv: arguments.block_kv.unwrap_or(own.grid.block_kv),
    };
    if grid == own.grid {
        return Ok(own);
    }
    Ok(attention.tile_classes_blocking(problem, data, &TileOptions::default().grid(grid))?)
}

/// A line for each plane: shares of all tiles, and how near to the best it comes.
fn tile_table(out: &mut dyn Write, planes: &[Plane<'_>], tiles: &TileClasses) -> io::Result<()> {
    let [_, _, rows, columns] = tiles.dims;
    let count = rows * columns;
    let TileGrid { block_q, block_kv } = tiles.grid;
    writeln!(out, "{count} tiles of {block_q} queries x {block_kv} keys")?;
    let width = planes.iter().map(|plane| plane.heading.len()).max().unwrap_or(0);
    writeln!(
        out,
        "{:width$}{:>10}{:>10}{:>10}{:>10}{:>16}",
        "", "visited", "partial", "full", "ideal", "visited/ideal"
    )?;
    for (at, plane) in planes.iter().enumerate() {
        let TileCounts { partial, full, ideal, .. } = plane.tile_counts(tiles, at);
        let visited = partial + full;
        let share = |tiles: usize| format!("{:.1}%", 100.0 * tiles as f64 / count.max(1) as f64);
        let ratio = if visited == ideal { 1.0 } else { visited as f64 / ideal as f64 };
        writeln!(
            out,
            "{:width$}{:>10}{:>10}{:>10}{:>10}{ratio:>16.3}",
            plane.heading,
            share(visited),
            share(partial),
            share(full),
            share(ideal)
        )?;
    }
    Ok(())
}

/// The tiles of the plane at this place.
fn plane_tiles(tiles: &TileClasses, plane: usize) -> &[TileClass] {
    let count = tiles.dims[2] * tiles.dims[3];
    &tiles.classes[plane * count..][..count]
}

fn planes(tensor: &MaskTensor, format: Format) -> Vec<Plane<'_>> {
    let masked = match format {
        Format::Keep => 0.0,
        Format::Additive | Format::Grid => f32::NEG_INFINITY,
    };
    let [batch, heads, rows, columns] = tensor.dims;
    let cells = rows * columns;
    (0..batch * heads)
        .map(|index| {
            let (b, h) = (index / heads, index % heads);
            let heading = match (batch > 1, heads > 1) {
                (false, false) => String::new(),
                (true, false) => format!("batch {b}"),
                (false, true) => format!("head {h}"),
                (true, true) => format!("batch {b}, head {h}"),
            };
            let values = &tensor.values[index * cells..(index + 1) * cells];
            let (batch, head) = ((batch > 1).then_some(b), (heads > 1).then_some(h));
            Plane { heading, batch, head, rows, columns, values, masked }
        })
        .collect()
}

/// As arrays are written in Python, but with two spaces where numbers are wide.
fn matrix(
    out: &mut dyn Write,
    plane: &Plane<'_>,
    between: &str,
    text: impl Fn(f32) -> &'static str,
) -> io::Result<()> {
    if plane.rows == 0 {
        return writeln!(out, "[]");
    }
    for row in 0..plane.rows {
        let start = if row == 0 { "[[" } else { " [" };
        write!(out, "{start}")?;
        for (column, &value) in plane.row(row).iter().enumerate() {
            let between = if column == 0 { "" } else { between };
            write!(out, "{between}{}", text(value))?;
        }
        let end = if row + 1 == plane.rows { "]]" } else { "]" };
        writeln!(out, "{end}")?;
    }
    Ok(())
}

/// `t=1:  .  X  X`: what each position sees.
fn grid(out: &mut dyn Write, plane: &Plane<'_>) -> io::Result<()> {
    let width = format!("t={}:", plane.rows).len();
    for row in 0..plane.rows {
        write!(out, "{:<width$}", format!("t={}:", row + 1))?;
        for &value in plane.row(row) {
            write!(out, "  {}", if value == 0.0 { '.' } else { 'X' })?;
        }
        writeln!(out)?;
    }
    Ok(())
}

impl Plane<'_> {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    fn tile_counts(&self, tiles: &TileClasses, at: usize) -> TileCounts {
        let classes = plane_tiles(tiles, at);
        let of = |class| classes.iter().filter(|&&other| other == class).count();
        TileCounts {
            tiles: classes.len(),
            partial: of(TileClass::Partial),
            full: of(TileClass::Full),
            ideal: self.tiles_with_a_kept_cell(tiles),
        }
    }

    /// The plane for programs; `null` for the sequence or the head where all are the same.
    fn record(&self, grid: Option<TileGrid>, counts: Option<TileCounts>) -> serde_json::Value {
        let mut record = serde_json::json!({ "batch": self.batch, "head": self.head });
        match (grid, counts) {
            (Some(grid), Some(counts)) => {
                record["block_q"] = grid.block_q.into();
                record["block_kv"] = grid.block_kv.into();
                record["tiles"] = counts.tiles.into();
                record["partial"] = counts.partial.into();
                record["full"] = counts.full.into();
                record["ideal"] = counts.ideal.into();
            }
            _ => {
                let kept = |&value: &f32| u8::from(value != self.masked);
                let row = |row: usize| self.row(row).iter().map(kept).collect::<Vec<_>>();
                record["keep"] = (0..self.rows).map(row).collect::<Vec<_>>().into();
            }
        }
        record
    }

    fn tiles_with_a_kept_cell(&self, tiles: &TileClasses) -> usize {
        let TileGrid { block_q, block_kv } = tiles.grid;
        let across = tiles.dims[3];
        let mut needed = vec![false; tiles.dims[2] * across];
        for row in 0..self.rows {
            for (column, &value) in self.row(row).iter().enumerate() {
                needed[row / block_q * across + column / block_kv] |= value != self.masked;
            }
        }
        needed.into_iter().filter(|&needed| needed).count()
    }
}

fn draw(
    mask: &Mask,
    planes: &[Plane<'_>],
    format: Format,
    file: Option<&TensorFile>,
    tiles: Option<&TileClasses>,
) -> Heatmap {
    let tokens = file.and_then(TensorFile::tokens).unwrap_or_default();
    let panels = planes.iter().enumerate().map(|(at, plane)| {
        let additive = |&value: &f32| match (format, value) {
            (Format::Keep, 0.0) => f32::NEG_INFINITY,
            (Format::Keep, _) => 0.0,
            _ => value,
        };
        let values: Vec<f32> = plane.values.iter().map(additive).collect();
        let panel = Panel::new(plane.rows, plane.columns, values).title(plane.heading.clone());
        let panel = match tiles {
            Some(tiles) => panel.tiles(tiles.grid, plane_tiles(tiles, at)),
            None => panel,
        };
        // A mask that is the same for all sequences has no tokens, unless there's but one sequence.
        let own = if planes.len() > 1 || tokens.len() == 1 {
            tokens.get(plane.batch.unwrap_or(0))
        } else {
            None
        };
        label(panel, plane, own)
    });
    let (rows, columns) = planes.first().map_or((0, 0), |plane| (plane.rows, plane.columns));
    Heatmap::new(mask.to_string())
        .subtitle(format!("{rows} queries, {columns} keys"))
        .legend("added to scores")
        .panels(panels)
}

/// Writes a sequence's tokens at the axes, with `[PAD]` for those that it lacks.
fn label(panel: Panel, plane: &Plane<'_>, tokens: Option<&Vec<String>>) -> Panel {
    let Some(tokens) = tokens.filter(|tokens| tokens.len() <= plane.columns) else {
        return panel;
    };
    let padding = std::iter::repeat_n("[PAD]".to_owned(), plane.columns - tokens.len());
    let labels: Vec<String> = tokens.iter().cloned().chain(padding).collect();
    if plane.rows == plane.columns { panel.labels(labels) } else { panel.column_labels(labels) }
}
