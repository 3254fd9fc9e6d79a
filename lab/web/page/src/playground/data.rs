//! What masks read, as the page lets people edit it: each item is a strip of whole numbers, one a token, one a sequence or one
//! a cell, from which the tensors are made.

use std::collections::BTreeMap;

use serde::Serialize;
use wgpu_attention::{AuxData, Mask, Shape};

use super::sequences::{PAD, Sequences};

/// How an item is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Editor {
    /// A length for each sequence: dragged.
    Length,
    /// 0 or 1 for each key: toggled.
    Flags,
    /// An id for each key: coloured.
    Ids,
    /// A number for each query, or some for each key: typed.
    Numbers,
    /// 0 or 1 for each cell or block of cells: painted.
    Cells,
}

/// An item with its values, for the page.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Item {
    /// The tensor's name, with its number.
    pub(crate) name: String,
    editor: Editor,
    sentence: &'static str,
    /// The same for all sequences?
    shared: bool,
    /// Numbers in a row of the strip: of a key, or of a row of cells.
    row: usize,
    /// Tokens on a side of a cell.
    block: usize,
    lowest: i32,
    highest: i32,
    /// `[batch or 1, …]`
    pub(crate) values: Vec<i32>,
}

/// Everything about an item but its values.
struct Kind {
    /// The first tensor that it is read as.
    name: &'static str,
    editor: Editor,
    sentence: &'static str,
    shared: bool,
    lowest: i32,
    highest: fn(&Place<'_>) -> usize,
    /// Numbers of a sequence, and how many of them stand in a row.
    sizes: fn(&Place<'_>) -> [usize; 2],
    first: fn(&Place<'_>) -> Vec<i32>,
    set: fn(AuxData, &Place<'_>, &[i32]) -> AuxData,
}

/// A sequence for which an item is made.
struct Place<'a> {
    shape: &'a Shape,
    sequences: &'a Sequences,
    b: usize,
    /// `block_sparse`'s argument.
    block: usize,
    /// Whether `column_ranges` is the bidirectional one.
    bidirectional: bool,
}

impl Place<'_> {
    fn keys(&self) -> usize {
        self.shape.seq_len_kv
    }

    fn length(&self) -> usize {
        self.sequences.lengths[self.b]
    }

    fn tokens(&self) -> &[String] {
        &self.sequences.tokens[self.b]
    }

    /// How many blocks queries and keys have.
    fn blocks(&self) -> [usize; 2] {
        [self.shape.seq_len_q.div_ceil(self.block), self.keys().div_ceil(self.block)]
    }

    fn each_key(&self, value: impl FnMut(usize) -> usize) -> Vec<i32> {
        (0..self.keys()).map(value).map(|value| value as i32).collect()
    }

    /// The same for every sequence.
    fn repeated<'v>(&self, values: &'v [i32]) -> impl Iterator<Item = i32> + 'v {
        values.iter().copied().cycle().take(self.shape.batch * values.len())
    }

    /// Of every sequence's keys the last ones, as many as there are queries.
    fn of_queries(&self, values: &[i32]) -> Vec<i32> {
        let skipped = self.keys() - self.shape.seq_len_q;
        values.chunks(self.keys()).flat_map(|row| row[skipped..].to_vec()).collect()
    }
}

const KINDS: [Kind; 11] = [
    Kind {
        name: "key_lengths",
        editor: Editor::Length,
        sentence: "How many keys each sequence has; the rest is padding.",
        shared: false,
        lowest: 0,
        highest: |place| place.keys(),
        sizes: |_| [1, 1],
        first: |place| vec![place.length() as i32],
        set: |data, _, values| data.key_lengths(values.iter().copied()),
    },
    Kind {
        name: "key_padding",
        editor: Editor::Flags,
        sentence: "Which tokens are kept as keys.",
        shared: false,
        lowest: 0,
        highest: |_| 1,
        sizes: |place| [place.keys(), place.keys()],
        first: |place| place.each_key(|key| usize::from(key < place.length())),
        set: |data, _, values| data.key_padding(values.iter().map(|&flag| flag != 0)),
    },
    Kind {
        name: "token_ids",
        editor: Editor::Flags,
        sentence: "Which tokens aren't the pad token.",
        shared: false,
        lowest: 0,
        highest: |_| 1,
        sizes: |place| [place.keys(), place.keys()],
        first: |place| place.tokens().iter().map(|token| i32::from(token != PAD)).collect(),
        set: |data, _, values| data.token_ids(values.iter().copied(), 0),
    },
    Kind {
        name: "prefix_lengths",
        editor: Editor::Length,
        sentence: "How many keys of each sequence every query sees.",
        shared: false,
        lowest: 0,
        highest: |place| place.keys(),
        sizes: |_| [1, 1],
        first: |place| vec![place.length().div_ceil(3) as i32],
        set: |data, _, values| data.prefix_lengths(values.iter().copied()),
    },
    Kind {
        name: "document_ids_q",
        editor: Editor::Ids,
        sentence: "Which document each token is of.",
        shared: false,
        lowest: 0,
        highest: |_| 7,
        sizes: |place| [place.keys(), place.keys()],
        first: documents,
        set: |data, place, values| {
            data.document_ids_q_kv(place.of_queries(values), values.iter().copied())
        },
    },
    Kind {
        name: "block_ids_q",
        editor: Editor::Ids,
        sentence: "Which block, such as an image, each token is of; −1 for none.",
        shared: false,
        lowest: -1,
        highest: |_| 7,
        sizes: |place| [place.keys(), place.keys()],
        first: |place| {
            // Two blocks between thirds of text.
            let fifth = place.length().div_ceil(5).max(1);
            place
                .each_key(|key| key / fifth)
                .into_iter()
                .map(|at| if at % 2 == 1 { at / 2 } else { -1 })
                .collect()
        },
        set: |data, place, values| {
            data.block_ids_q_kv(place.of_queries(values), values.iter().copied())
        },
    },
    Kind {
        name: "bucket_ids",
        editor: Editor::Ids,
        sentence: "Which bucket each token was hashed to.",
        shared: false,
        lowest: 0,
        highest: |_| 7,
        sizes: |place| [place.keys(), place.keys()],
        first: |place| place.each_key(|key| key * key / 3 % 6),
        set: |data, place, values| {
            data.bucket_ids([place.shape.batch, 1, 1, place.keys()], values.iter().copied())
        },
    },
    Kind {
        name: "dense",
        editor: Editor::Cells,
        sentence: "Which cells are kept: paint them in the first picture.",
        shared: true,
        lowest: 0,
        highest: |_| 1,
        sizes: |place| [place.shape.seq_len_q * place.keys(), place.keys()],
        first: |place| {
            let bit =
                |cell: usize| (cell / place.keys() / 4 * 5 + cell % place.keys() / 4 * 3) % 4 != 1;
            (0..place.shape.seq_len_q * place.keys()).map(|cell| i32::from(bit(cell))).collect()
        },
        set: |data, place, values| {
            let sizes = [1, 1, place.shape.seq_len_q, place.keys()];
            data.dense(sizes, values.iter().map(|&bit| bit != 0))
        },
    },
    Kind {
        name: "block_indices",
        editor: Editor::Cells,
        sentence: "Which blocks of keys each block of queries lists: paint them in the first picture.",
        shared: true,
        lowest: 0,
        highest: |_| 1,
        sizes: |place| [place.blocks().iter().product(), place.blocks()[1]],
        first: |place| {
            let [queries, keys] = place.blocks();
            let listed = |own: usize, key: usize| key == 0 || key == own || key == own * own / 7;
            let cell = |at: usize| i32::from(listed(at / keys + keys - queries, at % keys));
            (0..queries * keys).map(cell).collect()
        },
        set: |data, place, values| {
            let [queries, keys] = place.blocks();
            let lists: Vec<Vec<i32>> = (values.chunks(keys))
                .map(|row| (0..).zip(row).filter(|(_, bit)| **bit != 0).map(|(at, _)| at).collect())
                .collect();
            let longest = lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
            let lists: Vec<i32> = (lists.into_iter())
                .flat_map(|mut list| {
                    list.resize(longest, -1);
                    list
                })
                .collect();
            let repeated: Vec<i32> = place.repeated(&lists).collect();
            data.block_indices([place.shape.batch, 1, queries, longest], repeated)
        },
    },
    Kind {
        name: "column_ranges",
        editor: Editor::Numbers,
        sentence: "Two rows for each key, between which its column is masked, or outside of which if the mask is bidirectional.",
        shared: true,
        lowest: 0,
        highest: |place| place.shape.seq_len_q,
        sizes: |place| [2 * place.keys(), 2],
        first: |place| {
            let rows = place.shape.seq_len_q;
            let bounds = |key: usize| match place.bidirectional {
                true => [rows.min(key + 4), rows.min(key.saturating_sub(6))],
                false => {
                    let end = rows.min(if key % 3 == 0 { key + 10 } else { 0 });
                    [(key + 4).min(end), end]
                }
            };
            (0..place.keys()).flat_map(bounds).map(|row| row as i32).collect()
        },
        set: |data, place, values| {
            let repeated: Vec<i32> = place.repeated(values).collect();
            data.column_ranges([place.shape.batch, 1, place.keys(), 2], repeated)
        },
    },
    Kind {
        name: "tree_parents",
        editor: Editor::Numbers,
        sentence: "The query that each query comes after in the tree; −1 for a root.",
        shared: true,
        lowest: -1,
        highest: |place| place.shape.seq_len_q.saturating_sub(2),
        sizes: |place| [place.shape.seq_len_q, 1],
        first: |place| {
            (0..place.shape.seq_len_q as i32)
                .map(|at| if at == 0 { -1 } else { (at - 1) / 2 })
                .collect()
        },
        set: |data, place, values| {
            // A parent comes first.
            let earlier: Vec<i32> =
                (0..).zip(values).map(|(at, &parent)| parent.min(at - 1)).collect();
            data.tree_parents(place.repeated(&earlier).collect::<Vec<_>>())
        },
    },
];

/// Tensors that come with another one's item.
const BESIDE: [&str; 3] = ["document_ids_kv", "block_ids_kv", "pad_id"];

/// A document for each sentence; thirds where there is one sentence alone.
fn documents(place: &Place<'_>) -> Vec<i32> {
    let mut ids = Vec::new();
    let mut id = 0;
    for token in &place.tokens()[..place.length()] {
        ids.push(id);
        id += i32::from([".", "!", "?"].contains(&token.as_str()));
    }
    let sentences = ids.iter().filter(|&&last| last == ids[ids.len() - 1]).count();
    if id == 0 || (id == 1 && sentences <= 2) || sentences == ids.len() {
        let third = place.length().div_ceil(3).max(1);
        ids = (0..place.length()).map(|key| (key / third) as i32).collect();
    }
    // Padding is a document of its own.
    let padding = ids.last().map_or(0, |last| (last + 1).min(7));
    ids.resize(place.keys(), padding);
    ids.iter().map(|&id| id.min(7)).collect()
}

/// What a mask reads: the given values where they fit, others where not.
pub(crate) fn items(
    mask: &Mask,
    shape: &Shape,
    sequences: &Sequences,
    given: &BTreeMap<String, Vec<i32>>,
) -> (Vec<Item>, AuxData) {
    let (block, bidirectional) =
        (block_size(mask).max(1), has(mask, "column_ranges", "bidirectional"));
    let place = |b| Place { shape, sequences, b, block, bidirectional };
    let mut items = Vec::new();
    let mut data = AuxData::new();
    for input in mask.aux_tensors() {
        let name = input.name().into_owned();
        let (base, number) = numbered(&name);
        if BESIDE.contains(&base) {
            continue;
        }
        let Some(kind) = KINDS.iter().find(|kind| kind.name == base) else { continue };
        let first = place(0);
        let [length, row] = (kind.sizes)(&first);
        let rows = if kind.shared { 1 } else { shape.batch };
        let highest = (kind.highest)(&first) as i32;
        let own = given.get(&name).filter(|values| values.len() == rows * length);
        let mut values = match own {
            Some(values) => values.clone(),
            None => (0..rows).flat_map(|b| (kind.first)(&place(b))).collect(),
        };
        for value in &mut values {
            *value = (*value).clamp(kind.lowest, highest.max(kind.lowest));
        }
        let set = (kind.set)(AuxData::new(), &first, &values);
        data = data.with_numbered(number, set);
        let Kind { editor, sentence, shared, lowest, .. } = *kind;
        let block = if kind.name == "block_indices" { block } else { 1 };
        items.push(Item { name, editor, sentence, shared, row, block, lowest, highest, values });
    }
    (items, data)
}

/// A tensor's name without its number.
fn numbered(name: &str) -> (&str, u32) {
    match name.rsplit_once('_') {
        Some((base, number)) if number.parse::<u32>().is_ok() => {
            (base, number.parse().unwrap_or(1))
        }
        _ => (name, 1),
    }
}

/// The argument of the first `block_sparse`.
fn block_size(mask: &Mask) -> usize {
    leaves(mask)
        .iter()
        .find_map(|leaf| leaf.strip_prefix("block_sparse("))
        .and_then(|rest| rest.split([',', ')']).next()?.parse().ok())
        .unwrap_or(1)
}

fn has(mask: &Mask, leaf: &str, argument: &str) -> bool {
    leaves(mask).iter().any(|text| text.starts_with(leaf) && text.contains(argument))
}

/// The leaves as text.
fn leaves(mask: &Mask) -> Vec<String> {
    match mask {
        Mask::And(a, b) | Mask::Or(a, b) => [leaves(a), leaves(b)].concat(),
        Mask::Not(a) | Mask::SelfOnlyIfAlone(a) => leaves(a),
        Mask::PerHead(masks) => masks.iter().flat_map(leaves).collect(),
        leaf => vec![leaf.to_string()],
    }
}
