//! A mask's words in the device's mask buffer: where everything lies, and what is known beforehand.
//!
//! ```text
//! mask buffer: | header | slots of the leaves | inputs | lengths | rows-alone flags | tile map |
//! ```

use std::sync::Arc;

use super::data::DataShape;
use super::emit::{custom_slots, score_mod_slot};
use super::slots::{
    ALIBI_SLOT, BLOCK_TABLES_SLOT, HEADER_SLOTS, KV_FIRST_SLOT, KV_SEQUENCES_SLOT, LENGTHS_SLOT,
    Q_SEQUENCES_SLOT, SINKS_SLOT,
};
use super::tile::TileGrid;
use super::{Causal, ColumnRanges, Mask, MaskInput};
use crate::custom::{Custom, CustomBuffer};
use crate::error::{Error, Result};
use crate::sequences::KeySequences;
use crate::shape::{Shape, elements};

/// How many tiles' classes one word of the tile map holds.
const TILES_PER_WORD: usize = 16;

/// Beyond every position, and small enough that sums with positions stay within `i32`.
const FAR: i64 = 1 << 30;

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

struct Builder<'a> {
    shape: &'a Shape,
    data: &'a DataShape,
    broadcast: [usize; 2],
    inputs: Vec<(InputName, usize, usize)>,
    head: Vec<u32>,
    at: usize,
}

impl Builder<'_> {
    /// The slots of a node and of those below it, in the order in which [`super::emit`] numbers them.
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
