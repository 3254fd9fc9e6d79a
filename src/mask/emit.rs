//! A mask as WGSL, and its words in the device's mask buffer.
//!
//! [`MaskText`] is what the mask's structure alone decides: the functions that the kernels call. Masks that differ
//! only in data (lengths, offsets, bounds, ids) have the same text and share pipelines.
//!
//! [`MaskLayout`] is the rest: where everything lies in the mask buffer, and the words that are known beforehand.
//!
//! ```text
//! mask buffer: | tile map header | slots of the leaves | inputs | lengths | rows-alone flags | tile map |
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use super::data::DataShape;
use super::{Causal, ColumnRanges, Mask, MaskInput};
use crate::custom::{Custom, CustomBuffer, CustomUse};
use crate::error::{Error, Result};
use crate::sequences::{KeySequences, SequenceForms};
use crate::shape::{Shape, elements};

/// The slots before the leaves': where the tile map lies, the words from one sequence, head and row of tiles to the next,
/// where ALiBi's slopes lie, and the sinks; then where what sequences are given lies, what was wrong with it, and the
/// lengths that kernels go by.
const HEADER_SLOTS: usize = 12;

/// The slot that says where ALiBi's slopes lie.
pub(crate) const ALIBI_SLOT: usize = 4;

/// The slot that says where the sinks lie.
pub(crate) const SINKS_SLOT: usize = 5;

/// The slot that says where `q_starts` or `q_lengths` lie.
pub(crate) const Q_SEQUENCES_SLOT: usize = 6;

/// The slot that says where `kv_starts` or `kv_lengths` lie.
pub(crate) const KV_SEQUENCES_SLOT: usize = 7;

/// The slot that says where `kv_first` lies.
pub(crate) const KV_FIRST_SLOT: usize = 8;

/// The slot that says where `block_tables` lie.
pub(crate) const BLOCK_TABLES_SLOT: usize = 9;

/// The word where `sequences_check` leaves what it found.
pub(crate) const FAULT_SLOT: usize = 10;

/// The slot that says where `sequences_check` writes each sequence's numbers of queries and keys.
pub(crate) const LENGTHS_SLOT: usize = 11;

/// How many tiles' classes one word of the tile map holds.
const TILES_PER_WORD: usize = 16;

/// Beyond every position, and small enough that sums with positions stay within `i32`.
const FAR: i64 = 1 << 30;

/// A leaf's WGSL fragment: `NAME_keep`, `NAME_tile` and `NAME_hull`.
#[derive(Debug, PartialEq, Eq)]
struct Fragment {
    name: &'static str,
    source: &'static str,
    slots: usize,
}

macro_rules! fragment {
    ($name:literal, $slots:literal) => {
        &Fragment {
            name: $name,
            source: include_str!(concat!("../../shaders/mask/", $name, ".wgsl")),
            slots: $slots,
        }
    };
}

/// The fragment that a leaf (or `self_only_if_alone`) calls.
fn fragment_of(mask: &Mask) -> Option<&'static Fragment> {
    Some(match mask {
        Mask::All
        | Mask::Wgsl(_)
        | Mask::And(..)
        | Mask::Or(..)
        | Mask::Not(_)
        | Mask::PerHead(_) => return None,
        Mask::Causal(_) => fragment!("causal", 2),
        Mask::Window(_) => fragment!("window", 2),
        Mask::KeyLengths | Mask::Prefix => fragment!("leading_keys", 1),
        Mask::KeyPadding => fragment!("key_padding", 1),
        Mask::TokenPadding => fragment!("token_padding", 2),
        Mask::Documents => fragment!("documents", 2),
        Mask::NotSelf => fragment!("not_self", 0),
        Mask::SelfOnlyIfAlone(_) => fragment!("self_only_if_alone", 3),
        Mask::Dense => fragment!("dense", 4),
        Mask::Chunk(_) => fragment!("chunk", 1),
        Mask::Dilated { .. } | Mask::Strided(_) => fragment!("dilated", 2),
        Mask::Global(_) => fragment!("global", 1),
        Mask::BlockBidirectional => fragment!("block_bidirectional", 2),
        Mask::Buckets => fragment!("buckets", 4),
        Mask::ColumnRanges(_) => fragment!("column_ranges", 4),
        Mask::Tree => fragment!("tree", 1),
    })
}

/// The functions that a mask's structure decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MaskText {
    /// The fragments and `mask_keep`, `mask_tile_closed`, `mask_hull`.
    pub(crate) functions: String,
    /// Where queries and keys lie, which the fragments ask.
    pub(crate) sequences: SequenceForms,
    /// Whether some of the text is the user's own.
    pub(crate) custom: bool,
    /// Whether the classes of tiles are read from the tile map.
    pub(crate) needs_tile_map: bool,
    /// For each `self_only_if_alone`, inner ones first: its slot and its inner mask as an expression.
    pub(crate) rows_alone: Vec<RowsAlone>,
}

/// A `self_only_if_alone` node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RowsAlone {
    /// Its first slot.
    pub(crate) slot: usize,
    /// Its inner mask, an expression over `b`, `h`, `q_idx` and `kv_idx`.
    pub(crate) inner_keep: String,
}

impl MaskText {
    pub(crate) fn new(mask: &Mask, sequences: SequenceForms) -> Self {
        let mut emitter = Emitter {
            next_slot: HEADER_SLOTS,
            fragments: Vec::new(),
            custom: String::new(),
            rows_alone: Vec::new(),
        };
        let Expressions { keep, tile, hull } = emitter.node(mask);
        let mut functions = String::new();
        for fragment in &emitter.fragments {
            // Writing to a String can't fail.
            let _ = writeln!(functions, "// ---- shaders/mask/{}.wgsl ----", fragment.name);
            functions.push_str(fragment.source);
            functions.push('\n');
        }
        functions.push_str(&emitter.custom);
        // Writing to a String can't fail.
        let _ = write!(
            functions,
            "fn mask_keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {{\n    return {keep};\n}}\n\n\
             fn mask_tile_closed(b: u32, h: u32, tile: Tile) -> u32 {{\n    return {tile};\n}}\n\n\
             fn mask_hull(b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {{\n    return {hull};\n}}\n"
        );
        Self {
            functions,
            sequences,
            custom: !emitter.custom.is_empty(),
            needs_tile_map: mask.needs_tile_map(),
            rows_alone: emitter.rows_alone,
        }
    }
}

/// A node as WGSL expressions.
struct Expressions {
    keep: String,
    tile: String,
    hull: String,
}

/// A custom function's slots: where each buffer lies, and its length.
fn custom_slots(custom: &Custom) -> usize {
    custom.buffers().len() * 2
}

/// A custom function, under the name of its use and its first slot, and the functions that read its buffers.
fn custom_text(custom: &Custom, usage: CustomUse, slot: usize) -> String {
    let mut text = format!("// ---- the user's {} ----\n", usage.function());
    text += &custom.renamed(usage, &format!("_{slot}"));
    for (at, buffer) in (slot..).step_by(2).zip(custom.buffers()) {
        let (name, element) = (&buffer.name, buffer.element.name());
        let _ = write!(
            text,
            "\nfn {name}_{slot}(i: u32) -> {element} {{\n    \
             return bitcast<{element}>(mask_words[slot_u32({at}u) + min(i, slot_u32({}u) - 1u)]);\n}}\n",
            at + 1
        );
    }
    text + "\n"
}

/// The first slot of a score's custom function: behind those of the mask.
fn score_mod_slot(mask: &Mask) -> usize {
    HEADER_SLOTS + slots(mask)
}

/// A score's custom function, `score_mod_SLOT`, and its name.
pub(crate) fn score_mod_text(mask: &Mask, custom: &Custom) -> (String, String) {
    let slot = score_mod_slot(mask);
    (custom_text(custom, CustomUse::Score, slot), format!("score_mod_{slot}"))
}

/// The name of its derivative, which stands in the same text.
pub(crate) fn score_mod_gradient(mask: &Mask) -> String {
    format!("{}_{}", CustomUse::ScoreGradient.function(), score_mod_slot(mask))
}

struct Emitter {
    next_slot: usize,
    fragments: Vec<&'static Fragment>,
    custom: String,
    rows_alone: Vec<RowsAlone>,
}

impl Emitter {
    fn node(&mut self, mask: &Mask) -> Expressions {
        match mask {
            Mask::And(a, b) => self.join(a, b, "&", "and"),
            Mask::Or(a, b) => self.join(a, b, "|", "or"),
            Mask::Not(inner) => {
                let inner = self.node(inner);
                Expressions {
                    keep: format!("!{}", inner.keep),
                    tile: format!("tile_not({})", inner.tile),
                    hull: "hull_all(b)".to_owned(),
                }
            }
            Mask::SelfOnlyIfAlone(inner) => {
                let inner = self.node(inner);
                let (name, slot) = self.call(mask);
                self.rows_alone.push(RowsAlone { slot, inner_keep: inner.keep.clone() });
                Expressions {
                    keep: format!("{name}_keep({slot}u, {}, b, h, q_idx, kv_idx)", inner.keep),
                    tile: format!("{name}_tile({slot}u, {}, b, h, tile)", inner.tile),
                    hull: inner.hull,
                }
            }
            Mask::PerHead(masks) => self.per_head(masks),
            Mask::Wgsl(custom) => {
                let slot = self.next_slot;
                self.next_slot += custom_slots(custom);
                self.custom.push_str(&custom_text(custom, CustomUse::Mask, slot));
                Expressions {
                    keep: format!("keep_{slot}(b, h, q_idx, kv_idx)"),
                    tile: "PARTIAL".to_owned(),
                    hull: "hull_all(b)".to_owned(),
                }
            }
            Mask::All => Expressions {
                keep: "true".to_owned(),
                tile: "FULL".to_owned(),
                hull: "hull_all(b)".to_owned(),
            },
            _ => {
                let (name, slot) = self.call(mask);
                Expressions {
                    keep: format!("{name}_keep({slot}u, b, h, q_idx, kv_idx)"),
                    tile: format!("{name}_tile({slot}u, b, h, tile)"),
                    hull: format!("{name}_hull({slot}u, b, h, q0, q1)"),
                }
            }
        }
    }

    /// Each mask for its run of heads. Which run a head is in is uniform, but the masks' numbers are data all the same.
    fn per_head(&mut self, masks: &[Mask]) -> Expressions {
        let mut nodes = masks.iter().map(|mask| self.node(mask)).collect::<Vec<_>>().into_iter();
        let Some(mut chosen) = nodes.next() else {
            return self.node(&Mask::All);
        };
        for (run, node) in (1..).zip(nodes) {
            let from = format!("h * {}u >= {run}u * params.num_heads", masks.len());
            let pick = |a: String, b: String| format!("select({a}, {b}, {from})");
            chosen = Expressions {
                keep: pick(chosen.keep, node.keep),
                tile: pick(chosen.tile, node.tile),
                hull: pick(chosen.hull, node.hull),
            };
        }
        chosen
    }

    /// Both sides are always evaluated: leaves are cheap, and a branch in the inner loop is not.
    fn join(&mut self, a: &Mask, b: &Mask, operator: &str, kleene: &str) -> Expressions {
        let (a, b) = (self.node(a), self.node(b));
        Expressions {
            keep: format!("({} {operator} {})", a.keep, b.keep),
            tile: format!("tile_{kleene}({}, {})", a.tile, b.tile),
            hull: format!("hull_{kleene}({}, {})", a.hull, b.hull),
        }
    }

    /// The node's function prefix and its first slot.
    fn call(&mut self, mask: &Mask) -> (&'static str, usize) {
        let Some(fragment) = fragment_of(mask) else {
            return ("", 0);
        };
        if !self.fragments.contains(&fragment) {
            self.fragments.push(fragment);
        }
        let slot = self.next_slot;
        self.next_slot += fragment.slots;
        (fragment.name, slot)
    }
}

/// The size of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileGrid {
    /// Queries in a tile.
    pub block_q: usize,
    /// Keys in a tile.
    pub block_kv: usize,
}

/// What the caller copies into the mask buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InputName {
    Known(MaskInput),
    /// A buffer of a custom function.
    Custom(Arc<str>),
}

impl InputName {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Known(input) => input.name(),
            Self::Custom(name) => name,
        }
    }
}

/// What a forward kernel does with a tile of queries × keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TileClass {
    /// No cell is kept: the tile isn't visited.
    Skip,
    /// Some cells may be kept and some masked: the mask is asked cell by cell.
    Partial,
    /// Every cell is kept: the mask isn't asked.
    Full,
}

impl TileClass {
    /// The class of a word that a [`crate::TilePlan`] wrote.
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Skip,
            1 => Self::Partial,
            _ => Self::Full,
        }
    }
}

/// Where everything lies in the mask buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaskLayout {
    /// The words from the start that are known beforehand.
    pub(crate) head: Vec<u32>,
    /// Each input, its first word and its number of words.
    pub(crate) inputs: Vec<(InputName, usize, usize)>,
    /// The whole buffer's size in words.
    pub(crate) words: usize,
    /// The sizes of the materialized mask: batch and heads are 1 where the mask is the same along them.
    pub(crate) broadcast: [usize; 2],
    /// Rows of tiles and words per row of the tile map, where there is one.
    pub(crate) tile_map: Option<[usize; 2]>,
}

impl MaskLayout {
    /// Lays out the mask buffer with room for `inputs`; where a kernel walks over tiles of `grid`, with the tile map that the mask may need.
    pub(crate) fn new(
        mask: &Mask,
        inputs: &[MaskInput],
        score_mod: Option<&Custom>,
        shape: &Shape,
        data: &DataShape,
        grid: Option<TileGrid>,
    ) -> Result<Self> {
        let broadcast = [
            if !shape.sequences.are_uniform() || depends_on_batch(mask, data) {
                shape.batch
            } else {
                1
            },
            if depends_on_heads(mask, data) { shape.num_heads } else { 1 },
        ];
        let mut builder = Builder {
            shape,
            data,
            broadcast,
            inputs: Vec::new(),
            head: vec![0; HEADER_SLOTS],
            at: score_mod_slot(mask) + score_mod.map_or(0, custom_slots),
        };
        for &input in inputs {
            let words = input.words(shape, data)?;
            let at = builder.take(words)?;
            match input {
                MaskInput::AlibiSlopes => builder.head[ALIBI_SLOT] = at as u32,
                MaskInput::Sinks => builder.head[SINKS_SLOT] = at as u32,
                MaskInput::QStarts | MaskInput::QLengths => {
                    builder.head[Q_SEQUENCES_SLOT] = at as u32;
                }
                MaskInput::KvStarts | MaskInput::KvLengths => {
                    builder.head[KV_SEQUENCES_SLOT] = at as u32;
                }
                MaskInput::KvFirst => builder.head[KV_FIRST_SLOT] = at as u32,
                MaskInput::BlockTables => builder.head[BLOCK_TABLES_SLOT] = at as u32,
                _ => {}
            }
            builder.inputs.push((InputName::Known(input), at, words));
        }
        for buffer in mask.customs().into_iter().chain(score_mod).flat_map(Custom::buffers) {
            builder.custom_buffer(buffer)?;
        }
        if shape.sequences.kv == (KeySequences::Cached { left_padded: false }) {
            // The buffer is zeros where nothing is copied to.
            builder.head[KV_FIRST_SLOT] = builder.take(shape.batch)? as u32;
        }
        if !shape.sequences.are_uniform() {
            builder.head[LENGTHS_SLOT] = builder.take(shape.batch.saturating_mul(2))? as u32;
        }
        builder.node(mask)?;
        if let Some(custom) = score_mod {
            builder.custom(custom);
        }
        let tile_map = match grid.filter(|_| mask.needs_tile_map()) {
            Some(grid) => Some(builder.tile_map(grid)?),
            None => None,
        };
        Ok(Self {
            head: builder.head,
            inputs: builder.inputs,
            words: builder.at,
            broadcast,
            tile_map,
        })
    }
}

fn depends_on_batch(mask: &Mask, data: &DataShape) -> bool {
    mask.any(&|mask| match mask {
        Mask::Dense => !data.dense.broadcast_batch,
        Mask::Wgsl(_) => true,
        _ => mask.leaf_inputs().iter().any(|&input| input != MaskInput::PadId),
    })
}

fn depends_on_heads(mask: &Mask, data: &DataShape) -> bool {
    mask.any(&|mask| match mask {
        Mask::Dense => !data.dense.broadcast_heads,
        Mask::Buckets => !data.buckets.broadcast_heads,
        Mask::ColumnRanges(_) => !data.columns.broadcast_heads,
        Mask::PerHead(masks) => masks.len() > 1,
        Mask::Wgsl(_) => true,
        _ => false,
    })
}

/// How many slots a mask's leaves have.
fn slots(mask: &Mask) -> usize {
    let below: usize = mask.children().into_iter().map(slots).sum();
    let own = match mask {
        Mask::Wgsl(custom) => custom_slots(custom),
        _ => fragment_of(mask).map_or(0, |fragment| fragment.slots),
    };
    below + own
}

struct Builder<'a> {
    shape: &'a Shape,
    data: &'a DataShape,
    broadcast: [usize; 2],
    inputs: Vec<(InputName, usize, usize)>,
    head: Vec<u32>,
    at: usize,
}

impl Builder<'_> {
    /// The slots of a node and of those below it, in the order in which [`Emitter::node`] numbers them.
    fn node(&mut self, mask: &Mask) -> Result<()> {
        for child in mask.children() {
            self.node(child)?;
        }
        match mask {
            Mask::Causal(alignment) => {
                let (offset, from_diagonal) = match alignment {
                    Causal::LowerRight => (0, true),
                    Causal::UpperLeft => (0, false),
                    Causal::Offset(offset) => (*offset, false),
                };
                self.push_offset(i64::from(offset));
                self.push_offset(if from_diagonal { -1 } else { 0 });
            }
            Mask::Window(window) => {
                self.push_offset(window.left.map_or(-FAR, |left| -i64::from(left)));
                self.push_offset(window.right.map_or(FAR, i64::from));
            }
            Mask::SelfOnlyIfAlone(_) => {
                let [batch, heads] = self.broadcast;
                let rows = self.shape.seq_len_q;
                let flags = self.take(elements("rows-alone flags", &[batch, heads, rows])?)?;
                self.push(flags);
                self.push(if batch > 1 { heads * rows } else { 0 });
                self.push(if heads > 1 { rows } else { 0 });
            }
            Mask::Chunk(size) => self.push_offset(i64::from(*size)),
            Mask::Dilated { window, step } => {
                self.push_offset(i64::from(*window).saturating_mul(i64::from(*step)));
                self.push_offset(i64::from(*step));
            }
            Mask::Strided(step) => {
                self.push_offset(FAR);
                self.push_offset(i64::from(*step));
            }
            Mask::Global(tokens) => self.push_offset(i64::from(*tokens)),
            Mask::Wgsl(custom) => self.custom(custom),
            _ => {
                for &input in mask.leaf_inputs() {
                    self.push(self.input_at(&InputName::Known(input)));
                }
                self.shape_slots(mask);
            }
        }
        Ok(())
    }

    /// Makes room for a custom function's buffer; functions that name the same one share it.
    fn custom_buffer(&mut self, buffer: &CustomBuffer) -> Result<()> {
        let name = InputName::Custom(Arc::clone(&buffer.name));
        match self.inputs.iter().find(|(other, ..)| *other == name) {
            None => {
                let at = self.take(buffer.len)?;
                self.inputs.push((name, at, buffer.len));
            }
            Some((_, _, len)) if *len == buffer.len => {}
            Some((_, _, len)) => {
                return Err(Error::operand(
                    format!("wgsl buffer `{}`", buffer.name),
                    format!("the same number of elements in every function, {len}"),
                    buffer.len,
                ));
            }
        }
        Ok(())
    }

    /// The slots of a custom function.
    fn custom(&mut self, custom: &Custom) {
        for buffer in custom.buffers() {
            self.push(self.input_at(&InputName::Custom(Arc::clone(&buffer.name))));
            self.push(buffer.len);
        }
    }

    fn input_at(&self, name: &InputName) -> usize {
        self.inputs.iter().find(|(other, ..)| other == name).map_or(0, |&(_, at, _)| at)
    }

    /// What follows a leaf's inputs: their strides and sizes.
    fn shape_slots(&mut self, mask: &Mask) {
        match mask {
            Mask::Dense => {
                for stride in self.data.dense.strides(self.shape) {
                    self.push(stride);
                }
            }
            Mask::Buckets => {
                for stride in self.data.buckets.strides(self.shape) {
                    self.push(stride);
                }
                self.push(self.data.buckets.elements);
            }
            Mask::ColumnRanges(form) => {
                for stride in self.data.columns.strides(self.shape) {
                    self.push(stride);
                }
                self.push(match (form, self.data.columns.elements) {
                    (ColumnRanges::Bidirectional, 2) => 3,
                    (_, bounds) => bounds,
                });
            }
            _ => {}
        }
    }

    /// Makes room for the tile map and fills the header.
    fn tile_map(&mut self, grid: TileGrid) -> Result<[usize; 2]> {
        let [batch, heads] = self.broadcast;
        let rows = self.shape.seq_len_q.div_ceil(grid.block_q);
        let row_words = (self.shape.seq_len_kv.div_ceil(grid.block_kv)).div_ceil(TILES_PER_WORD);
        let at = self.take(elements("tile map", &[batch, heads, rows, row_words])?)?;
        let per_head = rows * row_words;
        let header = [
            at,
            if batch > 1 { heads * per_head } else { 0 },
            if heads > 1 { per_head } else { 0 },
            row_words,
        ];
        for (slot, word) in header.into_iter().enumerate() {
            self.head[slot] = word as u32;
        }
        Ok([rows, row_words])
    }

    /// Appends a region and returns its first word. Every place stays within u32, so that slots can hold it.
    fn take(&mut self, words: usize) -> Result<usize> {
        let at = self.at;
        self.at =
            (at.checked_add(words)).filter(|&end| u32::try_from(end).is_ok()).ok_or_else(|| {
                Error::operand(
                    "mask",
                    "data of at most 2^32 words",
                    format!("{at} + {words} words"),
                )
            })?;
        Ok(at)
    }

    fn push_offset(&mut self, offset: i64) {
        self.head.push((offset.clamp(-FAR, FAR) as i32).cast_unsigned());
    }

    fn push(&mut self, word: usize) {
        self.head.push(word as u32);
    }
}
