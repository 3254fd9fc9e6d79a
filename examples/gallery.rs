//! Writes the gallery of masks, a page and its pictures: `gallery [FOLDER]`, by default into `docs`.
//!
//! Every leaf and every named composition is made on the device and drawn. The page is written from the same entries, so
//! that text and pictures can't part; `cargo xtask gallery` writes the one of this project.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use wgpu_attention::mask::{MaskSample, TileGrid, compositions};
use wgpu_attention::plan::{MaskFormat, TileOptions};
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{AuxData, Mask, Problem, Session, Shape};
use wgpu_attention_tools::picture::{Heatmap, Panel};

/// Of the operators' pictures, in which single cells are seen, as in the leaves'.
const SMALL: usize = 24;
/// Of the compositions', in which tiles are.
const LARGE: usize = 96;
const GRID: TileGrid = TileGrid { block_q: 8, block_kv: 8 };

/// One mask of the gallery.
struct Entry {
    /// The picture's name, and the heading where it isn't the mask's text.
    name: &'static str,
    mask: Mask,
    sentence: &'static str,
    /// What it reads, as in the README's table.
    reads: String,
    source: &'static str,
    shape: Shape,
    data: AuxData,
    tiles: bool,
}

impl From<MaskSample> for Entry {
    fn from(sample: MaskSample) -> Self {
        let reads = sample.reads().join(", ");
        let MaskSample { name, mask, sentence, source, shape, data, .. } = sample;
        Self { name, mask, sentence, reads, source, shape, data, tiles: false }
    }
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("docs"), PathBuf::from);
    let attention = Session::open_blocking(&Default::default())?;
    let (leaves, named) = (leaves()?, named_compositions());
    for entry in leaves.iter().chain(&named) {
        let path = folder.join("masks").join(format!("{}.png", entry.name));
        draw(&attention, entry)?.save(&path)?;
    }
    let path = folder.join("masks.md");
    std::fs::write(&path, page(&leaves, &named)).context("the page can't be written")?;
    println!("{}: {} leaves, {} compositions", shown(&path), leaves.len(), named.len());
    Ok(())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The mask's planes, side by side.
fn draw(attention: &Session, entry: &Entry) -> Result<Heatmap> {
    let problem = Problem::new(entry.shape).mask(entry.mask.clone());
    let mask = attention.materialize_blocking(&problem, &entry.data, MaskFormat::Additive)?;
    let tiles = attention.tile_classes_blocking(
        &problem,
        &entry.data,
        &TileOptions::default().grid(GRID),
    )?;
    let [batch, heads, rows, columns] = mask.dims;
    let planes = mask.values.chunks(rows * columns).enumerate();
    let panels = planes.map(|(at, values)| {
        let panel = Panel::new(rows, columns, values);
        let panel = if batch * heads > 1 { panel.title(format!("head {at}")) } else { panel };
        let count = tiles.dims[2] * tiles.dims[3];
        match entry.tiles {
            true => panel.tiles(GRID, &tiles.classes[at * count..][..count]),
            false => panel,
        }
    });
    Ok(Heatmap::new(entry.mask.to_string())
        .legend("added to scores")
        .largest_panel(320.0)
        .numbers(false)
        .panels(panels))
}

fn page(leaves: &[Entry], named: &[Entry]) -> String {
    let mut page = String::from(INTRODUCTION);
    grid(&mut page, leaves, |entry| format!("`{}`", entry.mask));
    page.push_str(NAMED);
    grid(&mut page, named, |entry| format!("`compositions::{}`", entry.name));
    page
}

const INTRODUCTION: &str = "\
# Masks

Rows are queries, columns are keys; what is hatched is masked. Written by `cargo xtask gallery`, which makes every mask
on the device.

## Leaves

Joined by `!`, `&` and `|`, which bind in this order.
";

const NAMED: &str = "
## Named compositions

Functions of the module `compositions`. Over the masks lie tiles: what isn't visited costs nothing, and where a tile is
full, the mask isn't asked. A test holds that no more than 1.05 times the tiles with a kept cell are visited;
`wgpu-attention mask TEXT --seq N --tiles` counts them for any mask.
";

/// Pictures in a table, each with what it is for below it.
fn grid(page: &mut String, entries: &[Entry], heading: impl Fn(&Entry) -> String) {
    page.push_str("\n<table>\n");
    for row in entries.chunks(COLUMNS) {
        page.push_str("<tr>\n");
        for entry in row {
            cell(page, &heading(entry), entry);
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

const COLUMNS: usize = 3;

fn cell(page: &mut String, heading: &str, entry: &Entry) {
    let Entry { name, mask, sentence, reads, source, .. } = entry;
    // Writing to a String can't fail. Between empty lines, markdown holds within a table's cell.
    let _ = write!(
        page,
        "<td width=\"33%\" valign=\"top\">\n\n<img src=\"masks/{name}.png\" width=\"260\" alt=\"{mask}\">\n\n\
         **{heading}**\n\n{sentence}\n"
    );
    if !heading.contains(&mask.to_string()) {
        let _ = write!(page, "\nText: `{mask}`\n");
    }
    if !reads.is_empty() {
        let _ = write!(page, "\nReads {reads}.\n");
    }
    if !source.is_empty() {
        let _ = write!(page, "\nSource: {source}.\n");
    }
    page.push_str("\n</td>\n");
}

/// Every leaf as its samples have it, then the operators.
fn leaves() -> Result<Vec<Entry>> {
    let samples = Mask::leaves().flat_map(|leaf| leaf.samples());
    let leaves: Vec<Entry> = samples.map(Entry::from).collect();
    let square = Shape::new(1, 1, SMALL, 1);
    let two_heads = square.num_heads(2).num_kv_heads(2);
    let documents = [7, 3, 9, 5].into_iter().zip(0..).flat_map(|(length, id)| vec![id; length]);
    let operator = |name, mask, sentence, reads: &str, source| Entry {
        name,
        mask,
        sentence,
        reads: reads.to_owned(),
        source,
        shape: square,
        data: AuxData::new(),
        tiles: false,
    };
    let operators = [
        Entry {
            data: AuxData::new().document_ids(documents),
            ..operator(
                "self_only_if_alone",
                (Mask::Documents & Mask::causal()).self_only_if_alone(),
                "What the mask keeps, the own position only where nothing else is kept.",
                "what the mask reads",
                REFORMER,
            )
        },
        Entry {
            shape: two_heads,
            ..operator(
                "per_head",
                Mask::PerHead(vec![Mask::causal(), Mask::window(3, 3)]),
                "A mask for each head, or for each run of heads.",
                "what the masks read",
                "",
            )
        },
        operator(
            "wgsl",
            Mask::Wgsl(WgslFunction::new(CUSTOM)?),
            CUSTOM_SENTENCE,
            "buffers of any names",
            "",
        ),
        operator(
            "operators",
            "causal & !strided(3) | global(1)".parse()?,
            "Not, both, either.",
            "what the masks read",
            "",
        ),
    ];
    Ok(leaves.into_iter().chain(operators).collect())
}

const CUSTOM: &str = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return (q_idx ^ kv_idx) % 5u < 3u;
}";
const CUSTOM_SENTENCE: &str = "What a user-defined function keeps, here this one:

```wgsl
fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32)
    -> bool {
    return (q_idx ^ kv_idx) % 5u < 3u;
}
```";

const LONGFORMER: &str = "Longformer, [arXiv 2004.05150](https://arxiv.org/abs/2004.05150)";
const REFORMER: &str = "Reformer, [arXiv 2001.04451](https://arxiv.org/abs/2001.04451)";
const SPECINFER: &str = "SpecInfer, [arXiv 2305.09781](https://arxiv.org/abs/2305.09781)";

fn named_compositions() -> Vec<Entry> {
    let square = Shape::new(1, 1, LARGE, 1);
    let none = AuxData::new;
    let entry = |name, mask, sentence, reads: &str, source, data| Entry {
        name,
        mask,
        sentence,
        reads: reads.to_owned(),
        source,
        shape: square,
        data,
        tiles: true,
    };
    let random = |cell: usize| (cell / LARGE / 8 * 7 + cell % LARGE / 8 * 11) % 12 == 5;
    let documents =
        (0..LARGE as i32).map(|at| i32::from(at >= 20) + i32::from(at >= 55) + i32::from(at >= 66));
    // As if sorted by what they hash to: neighbours are often in one bucket.
    let buckets: Vec<i32> = (0..LARGE as i32).map(|at| at / 5 * 7 % 11).collect();
    let parents = (0..40).map(|at: i32| if at == 0 { -1 } else { (at - 1) / 3 });
    vec![
        entry(
            "sliding_window",
            compositions::sliding_window(24),
            "The own position and those before it, so many in all.",
            "",
            "Mistral 7B, [arXiv 2310.06825](https://arxiv.org/abs/2310.06825)",
            none(),
        ),
        entry(
            "longformer",
            compositions::longformer(12, 2),
            "A window on either side; the first tokens see all and are seen by all.",
            "",
            LONGFORMER,
            none(),
        ),
        entry(
            "bigbird",
            compositions::bigbird(8, 4),
            "Longformer's, and blocks at random.",
            "`dense`: the random blocks",
            "BigBird, [arXiv 2007.14062](https://arxiv.org/abs/2007.14062)",
            none().dense([1, 1, LARGE, LARGE], (0..LARGE * LARGE).map(random)),
        ),
        entry(
            "prefix_lm",
            compositions::prefix_lm(),
            "A prefix that sees itself whole, then causal text.",
            "`prefix_lengths`",
            "T5, [arXiv 1910.10683](https://arxiv.org/abs/1910.10683)",
            none().prefix_lengths([36]),
        ),
        entry(
            "packed_documents",
            compositions::packed_documents(),
            "Texts that share a sequence and don't see each other.",
            "`document_ids_q`, `document_ids_kv`",
            "Krell et al., [arXiv 2107.02027](https://arxiv.org/abs/2107.02027)",
            none().document_ids(documents),
        ),
        entry(
            "streaming_llm",
            compositions::streaming_llm(20, 4),
            "The last tokens, and the first ones as sinks of attention.",
            "",
            "StreamingLLM, [arXiv 2309.17453](https://arxiv.org/abs/2309.17453)",
            none(),
        ),
        entry(
            "gemma2",
            compositions::gemma2(0, 32),
            "A sliding window in layers 0, 2, 4 …, as here, and `causal` in layers 1, 3, 5 …",
            "",
            "Gemma 2, [arXiv 2408.00118](https://arxiv.org/abs/2408.00118)",
            none(),
        ),
        entry(
            "gemma3",
            compositions::gemma3(5, 32),
            "A sliding window in five layers, then `causal` in one: layers 5, as here, 11, 17 …",
            "",
            "Gemma 3, [arXiv 2503.19786](https://arxiv.org/abs/2503.19786)",
            none(),
        ),
        entry(
            "llama4",
            compositions::llama4(0, 28),
            "Causal chunks in three layers, as here, then `causal` in one: layers 3, 7, 11 …",
            "",
            "Llama 4's configuration, `attention_chunk_size`",
            none(),
        ),
        entry(
            "reformer",
            compositions::reformer(),
            "Earlier positions of the own bucket, the own one only where there is no other.",
            "`bucket_ids`",
            REFORMER,
            none().bucket_ids([1, 1, 1, LARGE], buckets),
        ),
        Entry {
            shape: square.seq_len_q(40),
            ..entry(
                "speculative_tree",
                compositions::speculative_tree(),
                "The cache, and of the drafted tokens the own ancestors.",
                "`tree_parents`",
                SPECINFER,
                none().tree_parents(parents),
            )
        },
    ]
}
