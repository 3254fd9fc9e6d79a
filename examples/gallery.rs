//! Writes the gallery of masks, a page and its pictures: `gallery [FOLDER]`, by default into `docs`.
//!
//! Every leaf and every named composition is made on the device and drawn. The page is written from the same entries, so
//! that text and pictures can't part; `cargo xtask gallery` writes the one of this project.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use wgpu_attention::picture::{Heatmap, Panel};
use wgpu_attention::{
    Attention, Custom, DeviceChoice, Mask, MaskData, MaskFormat, Problem, Shape, TileGrid,
    compositions,
};

/// Of the leaves' pictures, in which single cells are seen.
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
    reads: &'static str,
    source: &'static str,
    shape: Shape,
    data: MaskData,
    tiles: bool,
}

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("docs"), PathBuf::from);
    let attention = Attention::open_blocking(&DeviceChoice::Best)?;
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
fn draw(attention: &Attention, entry: &Entry) -> Result<Heatmap> {
    let problem = Problem::new(entry.shape).mask(entry.mask.clone());
    let mask = attention.materialize_blocking(&problem, &entry.data, MaskFormat::Additive)?;
    let tiles = attention.tile_classes_blocking(&problem, &entry.data, Some(GRID))?;
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
    for entry in leaves {
        section(&mut page, &format!("`{}`", entry.mask), entry);
    }
    page.push_str(NAMED);
    for entry in named {
        section(&mut page, &format!("`compositions::{}`", entry.name), entry);
    }
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

fn section(page: &mut String, heading: &str, entry: &Entry) {
    let Entry { name, mask, sentence, reads, source, .. } = entry;
    // Writing to a String can't fail.
    let _ = write!(page, "\n### {heading}\n\n{sentence}\n");
    if !heading.contains(&mask.to_string()) {
        let _ = write!(page, "\n- Text: `{mask}`");
    }
    if !reads.is_empty() {
        let _ = write!(page, "\n- Reads {reads}");
    }
    if !source.is_empty() {
        let _ = write!(page, "\n- Source: {source}");
    }
    let image = format!("<img src=\"masks/{name}.png\" width=\"440\" alt=\"{mask}\">");
    let _ = writeln!(page, "{}\n{image}", if page.ends_with('\n') { "" } else { "\n" });
}

/// Every leaf, in the order in which messages list them.
fn leaves() -> Result<Vec<Entry>> {
    let square = Shape::new(1, 1, SMALL, 1);
    let cache = Shape::new(1, 1, 10, 1).seq_kv(SMALL);
    let runs = |lengths: &[usize]| -> Vec<i32> {
        (0..).zip(lengths).flat_map(|(id, &length)| std::iter::repeat_n(id, length)).collect()
    };
    let documents = runs(&[7, 3, 9, 5]);
    // Two images, of 6 and of 5 tokens, in a text.
    let images = runs(&[4, 6, 5, 5, 4]).into_iter().map(|id| if id % 2 == 1 { id } else { -1 });
    let buckets: Vec<i32> = (0..2 * SMALL as i32).map(|at| at * at / 3 % 6).collect();
    let padding = |at: usize| !(at < 3 || (14..17).contains(&at));
    let dense = |cell: usize| (cell / SMALL / 4 * 5 + cell % SMALL / 4 * 3) % 4 != 1;
    // Each third column masks the rows that come 4 to 9 after its own.
    let ranges = (0..SMALL).flat_map(|key| {
        let end = SMALL.min(if key % 3 == 0 { key + 10 } else { 0 });
        [SMALL.min(key + 4).min(end) as i32, end as i32]
    });
    // A column is seen from 6 rows before its own to 3 rows after it.
    let band = (0..SMALL).flat_map(|key| [SMALL.min(key + 4) as i32, key.saturating_sub(6) as i32]);
    let none = MaskData::new;
    let leaf = |name, text: &str, sentence, reads, source, data| -> Result<Entry> {
        let mask = text.parse()?;
        Ok(Entry { name, mask, sentence, reads, source, shape: square, data, tiles: false })
    };
    let with_cache = |entry: Result<Entry>| entry.map(|entry| Entry { shape: cache, ..entry });
    let custom = |entry: Result<Entry>| -> Result<Entry> {
        Ok(Entry { mask: Mask::Wgsl(Custom::new(CUSTOM)?), ..entry? })
    };
    let of_heads = |entry: Result<Entry>| {
        entry.map(|entry| Entry {
            shape: Shape { num_heads: 2, num_kv_heads: 2, ..square },
            ..entry
        })
    };
    vec![
        leaf("all", "all", "Every key.", "", "", none()),
        leaf("causal", "causal", "The query's own position and those before it.", "", VASWANI, none()),
        with_cache(leaf("causal_cache", "causal", "`causal` with more keys than queries: the last query stands at the last key, as with a cache.", "", "", none())),
        with_cache(leaf("causal_upper_left", "causal(upper_left)", "The first query stands at the first key: PyTorch's `is_causal`.", "", "", none())),
        leaf("causal_offset", "causal(offset=3)", "Keys up to so many after the query's index: `kv_idx <= q_idx + 3`.", "", "", none()),
        leaf("window", "window(4,1)", "So many keys before and after the own position; `inf` is unbounded.", "", LONGFORMER, none()),
        leaf("key_lengths", "key_lengths", "The first keys of each sequence: padding on the right.", "`key_lengths` i32 [B]", "", none().key_lengths([17])),
        leaf("key_padding", "key_padding", "The keys that are flagged: padding anywhere.", "`key_padding` u32 [B,Tk]", "", none().key_padding((0..SMALL).map(padding))),
        leaf("token_padding", "token_padding", "The keys whose token isn't the pad id.", "`token_ids` i32 [B,Tk], `pad_id` i32 [1]", "", none().token_ids((0..SMALL as i32).map(|at| if at < 20 { at + 5 } else { 0 }), 0)),
        leaf("prefix", "prefix", "The first keys, for every query.", "`prefix_lengths` i32 [B]", "T5, [arXiv 1910.10683](https://arxiv.org/abs/1910.10683)", none().prefix_lengths([8])),
        leaf("documents", "documents", "The keys of the query's own document.", "`document_ids_q` i32 [B,Tq], `document_ids_kv` i32 [B,Tk]", "Krell et al., [arXiv 2107.02027](https://arxiv.org/abs/2107.02027)", none().document_ids(documents.clone())),
        leaf("not_self", "not_self", "Every key but the own position.", "", "", none()),
        leaf("self_only_if_alone", "self_only_if_alone(documents & causal)", "What the mask keeps, the own position only where nothing else is kept.", "what the mask reads", REFORMER, none().document_ids(documents)),
        leaf("dense", "dense", "The cells whose bit is set.", "`dense` bits, broadcast over [B,H,Tq]", "", none().dense([1, 1, SMALL, SMALL], (0..SMALL * SMALL).map(dense))),
        leaf("chunk", "chunk(6)", "The keys of the own position's chunk of so many positions.", "", "Llama 4, with `causal`", none()),
        leaf("dilated", "dilated(3,2)", "Every so many-th key, up to so many of them on either side.", "", LONGFORMER, none()),
        leaf("strided", "strided(4)", "Every so many-th key, counted from the own position.", "", "Sparse Transformer, [arXiv 1904.10509](https://arxiv.org/abs/1904.10509)", none()),
        leaf("global", "global(2)", "The first keys for every query, and every key for the first queries.", "", LONGFORMER, none()),
        leaf("block_bidirectional", "block_bidirectional | causal", "The keys of the query's own block, if it lies in one: here with `causal`, so that an image's tokens see each other.", "`block_ids_q` i32 [B,Tq], `block_ids_kv` i32 [B,Tk], negative in no block", "Gemma 3, [arXiv 2503.19786](https://arxiv.org/abs/2503.19786)", none().block_ids(images)),
        leaf("buckets", "buckets", "The keys that share a bucket with the own position in some round of hashing.", "`bucket_ids` i32 [B,H or 1,rounds,Tk]", REFORMER, none().bucket_ids([1, 1, 2, SMALL], buckets)),
        leaf("column_ranges", "column_ranges", "All but the rows that each key's column names: from a start on, from start to end, or two such ranges.", "`column_ranges` i32 [B,H or 1,Tk,1, 2 or 4]", FLASHMASK, none().column_ranges([1, 1, SMALL, 2], ranges)),
        leaf("column_ranges_bidirectional", "column_ranges(bidirectional)", "All but the rows from the first bound on and those before the second.", "`column_ranges` i32 [B,H or 1,Tk,2]", FLASHMASK, none().column_ranges([1, 1, SMALL, 2], band)),
        with_cache(leaf("tree", "tree", "The keys before the last `Tq`, and of these the own position and its ancestors.", "`tree_parents` i32 [B,Tq], −1 for a root", SPECINFER, none().tree_parents([-1, 0, 0, 1, 1, 2, 3, 3, 5, 6]))),
        of_heads(leaf("per_head", "per_head(causal, window(3,3))", "A mask for each head, or for each run of heads.", "what the masks read", "", none())),
        custom(leaf("wgsl", "all", CUSTOM_SENTENCE, "buffers of any names", "", none())),
        leaf("operators", "causal & !strided(3) | global(1)", "Not, both, either.", "what the masks read", "", none()),
    ]
    .into_iter()
    .collect()
}

const CUSTOM: &str = "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return (q_idx ^ kv_idx) % 5u < 3u;
}";
const CUSTOM_SENTENCE: &str = "What your own function keeps: here \
    `fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool { return (q_idx ^ kv_idx) % 5u < 3u; }`.";

const VASWANI: &str = "Vaswani et al., [arXiv 1706.03762](https://arxiv.org/abs/1706.03762)";
const LONGFORMER: &str = "Longformer, [arXiv 2004.05150](https://arxiv.org/abs/2004.05150)";
const REFORMER: &str = "Reformer, [arXiv 2001.04451](https://arxiv.org/abs/2001.04451)";
const FLASHMASK: &str = "FlashMask, [arXiv 2410.01359](https://arxiv.org/abs/2410.01359)";
const SPECINFER: &str = "SpecInfer, [arXiv 2305.09781](https://arxiv.org/abs/2305.09781)";

fn named_compositions() -> Vec<Entry> {
    let square = Shape::new(1, 1, LARGE, 1);
    let none = MaskData::new;
    let entry = |name, mask, sentence, reads, source, data| Entry {
        name,
        mask,
        sentence,
        reads,
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
            shape: Shape { seq_len_q: 40, ..square },
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
