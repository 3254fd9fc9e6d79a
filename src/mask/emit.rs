//! A mask as WGSL: the functions that the kernels call, which its structure alone decides. Masks that differ only in data
//! (lengths, offsets, bounds, ids) have the same text and share pipelines.

use std::fmt::Write as _;

use super::Mask;
use super::slots::HEADER_SLOTS;
use crate::custom::{Custom, CustomUse};
use crate::sequences::SequenceForms;

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
pub(super) fn custom_slots(custom: &Custom) -> usize {
    custom.buffers().len() * 2
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
pub(super) fn score_mod_slot(mask: &Mask) -> usize {
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
