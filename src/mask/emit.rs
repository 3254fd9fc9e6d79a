//! A mask as WGSL: the functions that the kernels call, which its structure alone decides. Masks that differ only in data
//! (lengths, offsets, bounds, ids) have the same text and share pipelines.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Mask;
use super::leaf::{Leaf, Shader, Tiles};
use super::slots::{HEADER_SLOTS, Slot};
use super::tile::ClassedBy;
use crate::auxiliary::AuxTensor;
use crate::custom::{CustomBuffer, CustomUse, WgslFunction};
use crate::score::{LearnedText, dropout};
use crate::tensor::sequences::SequenceForms;

/// The WGSL of a leaf or of `self_only_if_alone`: the functions' prefix, and the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fragment {
    name: &'static str,
    source: &'static str,
}

const SELF_ONLY_IF_ALONE: Fragment = Fragment {
    name: "self_only_if_alone",
    source: include_str!("../../shaders/mask/self_only_if_alone.wgsl"),
};

/// The functions that a mask's structure decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MaskText {
    /// The fragments and `mask_keep`, `mask_tile_closed`, `mask_hull`, `mask_next`.
    pub(crate) functions: String,
    /// Where queries and keys lie, which the fragments ask.
    pub(crate) sequences: SequenceForms,
    /// Whether some of the text is the user's own.
    pub(crate) custom: bool,
    /// Where the classes of tiles come from.
    pub(crate) classed_by: ClassedBy,
    /// For each `self_only_if_alone`, inner ones first: its slot and its inner mask as an expression.
    pub(crate) rows_alone: Vec<RowsAlone>,
    /// The first slot of each leaf whose lists are read as bits.
    pub(crate) block_bits: Vec<usize>,
}

/// A `self_only_if_alone` node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RowsAlone {
    /// Its first slot.
    pub(crate) slot: usize,
    /// Its inner mask, an expression over `b`, `h`, `q_idx` and `kv_idx`.
    pub(crate) inner_keep: String,
}

/// The functions of shaders/mask_tables/ that tell a leaf the bounds of its data.
const RANGE_WORDS: Fragment = Fragment {
    name: "range_words",
    source: include_str!("../../shaders/mask_tables/range_words.wgsl"),
};
const RANGE_BOUNDS: Fragment = Fragment {
    name: "range_bounds",
    source: include_str!("../../shaders/mask_tables/range_bounds.wgsl"),
};

impl MaskText {
    /// With a tile map, where the mask has leaves that look at data.
    pub(crate) fn new(mask: &Mask, sequences: SequenceForms) -> Self {
        let classed_by = if mask.reads_tiles() { ClassedBy::Map } else { ClassedBy::ClosedForms };
        Self::classed(mask, sequences, classed_by)
    }

    pub(crate) fn classed(mask: &Mask, sequences: SequenceForms, classed_by: ClassedBy) -> Self {
        let by_bounds = classed_by == ClassedBy::Bounds;
        let mut emitter = Emitter { by_bounds, ..Emitter::default() };
        let Expressions { keep, tile, hull, next } = emitter.node(mask);
        let next = next.as_deref().unwrap_or(NO_JUMP);
        let range = if by_bounds { RANGE_BOUNDS } else { RANGE_WORDS };
        let ranges = mask.has_bounds().then_some(("mask_tables", &range));
        let fragments = emitter.fragments.iter().map(|fragment| ("mask", fragment));
        let mut functions = String::new();
        for (folder, Fragment { name, source }) in ranges.into_iter().chain(fragments) {
            // Writing to a String can't fail.
            let _ = writeln!(functions, "// ---- shaders/{folder}/{name}.wgsl ----");
            functions.push_str(source);
            functions.push('\n');
        }
        functions.push_str(&emitter.custom);
        // Writing to a String can't fail.
        let _ = write!(
            functions,
            "fn mask_keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {{\n    return {keep};\n}}\n\n\
             fn mask_tile_closed(b: u32, h: u32, tile: Tile) -> u32 {{\n    return {tile};\n}}\n\n\
             fn mask_hull(b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {{\n    return {hull};\n}}\n\n\
             fn mask_next(b: u32, h: u32, q0: u32, q1: u32, kv_idx: u32) -> u32 {{\n    return {next};\n}}\n"
        );
        Self {
            functions,
            sequences,
            custom: !emitter.custom.is_empty(),
            classed_by,
            rows_alone: emitter.rows_alone,
            block_bits: emitter.block_bits,
        }
    }
}

/// A node as WGSL expressions.
struct Expressions {
    keep: String,
    tile: String,
    hull: String,
    /// The first key from `kv_idx` on that some of the rows may keep, where a leaf knows better than [`NO_JUMP`].
    next: Option<String>,
}

/// The next key that may be kept, where none is known not to be.
const NO_JUMP: &str = "kv_idx";

/// The slots of a user-defined function: where each buffer starts, and its length.
pub(super) fn custom_slots(custom: &WgslFunction) -> Vec<Slot> {
    let of = |buffer: &CustomBuffer| {
        [Slot::CustomStart(Arc::clone(&buffer.name)), Slot::CustomLen(buffer.len)]
    };
    custom.buffers().iter().flat_map(of).collect()
}

/// The slots of a mask, behind the header's: those that [`MaskText`] numbers.
pub(super) fn slots(mask: &Mask) -> Vec<Slot> {
    let mut emitter = Emitter::default();
    emitter.node(mask);
    emitter.slots
}

/// A user-defined function, under the name of its use and its first slot, and the functions that read its buffers.
fn custom_text(custom: &WgslFunction, usage: &CustomUse, slot: usize) -> String {
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

/// The slots of dropout: the seed, the bits below which a cell is dropped, and what the other weights are multiplied with.
pub(super) fn dropout_slots(p: f32) -> [Slot; 3] {
    let seed = Slot::Start(AuxTensor::DropoutSeed);
    [seed, Slot::Word(dropout::threshold(p)), Slot::Word(dropout::scale(p).to_bits())]
}

/// The first of them: behind those of the mask and of the score's user-defined function.
pub(crate) fn dropout_slot(mask: &Mask, score_mod: Option<&WgslFunction>) -> usize {
    score_mod_slot(mask) + score_mod.map_or(0, |custom| custom_slots(custom).len())
}

/// The first slot of a score's user-defined function: behind those of the mask.
fn score_mod_slot(mask: &Mask) -> usize {
    HEADER_SLOTS + slots(mask).len()
}

/// A score's user-defined function, `score_mod_SLOT`, and its name.
pub(crate) fn score_mod_text(mask: &Mask, custom: &WgslFunction) -> (String, String) {
    let slot = score_mod_slot(mask);
    (custom_text(custom, &CustomUse::ScoreModifiers, slot), format!("score_mod_{slot}"))
}

/// The name of its derivative, which stands in the same text.
pub(crate) fn score_mod_gradient(mask: &Mask) -> String {
    format!("{}_{}", CustomUse::ScoreGradient.function(), score_mod_slot(mask))
}

/// What in the same text describes its buffers' gradients.
pub(crate) fn score_mod_learned(mask: &Mask, custom: &WgslFunction) -> Vec<LearnedText> {
    let slot = score_mod_slot(mask);
    let name = |usage: CustomUse| format!("{}_{slot}", usage.function());
    let of = |(at, buffer): (usize, &CustomBuffer)| LearnedText {
        index: name(CustomUse::ElementIndex(Arc::clone(&buffer.name))),
        gradient: name(CustomUse::ElementGradient(Arc::clone(&buffer.name))),
        len_slot: slot + 2 * at + 1,
    };
    custom.learned().map(of).collect()
}

/// Goes through an expression once, and leaves what its nodes need.
#[derive(Default)]
struct Emitter {
    /// Whether there is no tile map that knows more than the leaves' own classes.
    by_bounds: bool,
    /// What the slots behind the header hold.
    slots: Vec<Slot>,
    fragments: Vec<Fragment>,
    custom: String,
    rows_alone: Vec<RowsAlone>,
    block_bits: Vec<usize>,
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
                    next: None,
                }
            }
            Mask::SelfOnlyIfAlone(inner) => {
                let inner = self.node(inner);
                let (name, slot) = self.call(
                    SELF_ONLY_IF_ALONE,
                    [Slot::RowFlags, Slot::RowFlagsBatch, Slot::RowFlagsHead],
                );
                self.rows_alone.push(RowsAlone { slot, inner_keep: inner.keep.clone() });
                Expressions {
                    keep: format!("{name}_keep({slot}u, {}, b, h, q_idx, kv_idx)", inner.keep),
                    tile: format!("{name}_tile({slot}u, {}, b, h, tile)", inner.tile),
                    hull: inner.hull,
                    // A row's own position may be none that the inner mask keeps.
                    next: None,
                }
            }
            Mask::PerHead(masks) => self.per_head(masks),
            Mask::Wgsl(custom) => {
                let slot = self.take(custom_slots(custom));
                self.custom.push_str(&custom_text(custom, &CustomUse::Mask, slot));
                Expressions {
                    keep: format!("keep_{slot}(b, h, q_idx, kv_idx)"),
                    tile: "PARTIAL".to_owned(),
                    hull: "hull_all(b)".to_owned(),
                    next: None,
                }
            }
            Mask::Leaf(leaf) => self.leaf(leaf),
        }
    }

    fn leaf(&mut self, leaf: &Leaf) -> Expressions {
        match leaf.spec().shader() {
            Shader::Everything => Expressions {
                keep: "true".to_owned(),
                tile: "FULL".to_owned(),
                hull: "hull_all(b)".to_owned(),
                next: None,
            },
            Shader::Functions { name, source } => {
                let slots = leaf.slots();
                let has_bits = slots.iter().any(|slot| matches!(slot, Slot::BlockBits(..)));
                let (name, slot) = self.call(Fragment { name, source }, slots);
                if has_bits {
                    self.block_bits.push(slot);
                }
                // To look at each cell whenever a kernel asks would take longer than to evaluate the mask.
                let unknown = self.by_bounds && leaf.spec().tiles() == Tiles::Map;
                Expressions {
                    keep: format!("{name}_keep({slot}u, b, h, q_idx, kv_idx)"),
                    tile: match unknown {
                        true => "PARTIAL".to_owned(),
                        false => format!("{name}_tile({slot}u, b, h, tile)"),
                    },
                    hull: format!("{name}_hull({slot}u, b, h, q0, q1)"),
                    next: (leaf.spec().jumps())
                        .then(|| format!("{name}_next({slot}u, b, h, q0, q1, kv_idx)")),
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
                next: match (chosen.next, node.next) {
                    (None, None) => None,
                    (a, b) => {
                        let [a, b] = [a, b].map(|next| next.unwrap_or_else(|| NO_JUMP.to_owned()));
                        Some(pick(a, b))
                    }
                },
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
            next: match (kleene, a.next, b.next) {
                ("and", Some(a), Some(b)) => Some(format!("max({a}, {b})")),
                ("and", a, b) => a.or(b),
                (_, Some(a), Some(b)) => Some(format!("min({a}, {b})")),
                _ => None,
            },
        }
    }

    /// Includes a fragment, once. Returns its functions' prefix and the first of these slots.
    fn call(
        &mut self,
        fragment: Fragment,
        slots: impl IntoIterator<Item = Slot>,
    ) -> (&'static str, usize) {
        if !self.fragments.contains(&fragment) {
            self.fragments.push(fragment);
        }
        (fragment.name, self.take(slots))
    }

    /// The number of the first of these slots.
    fn take(&mut self, slots: impl IntoIterator<Item = Slot>) -> usize {
        let first = HEADER_SLOTS + self.slots.len();
        self.slots.extend(slots);
        first
    }
}
