//! A mask's words in the device's mask buffer: where everything lies, and what is known beforehand.
//!
//! ```text
//! mask buffer: | header | slots of the leaves | inputs | lengths | rows-alone flags, bits of lists | tile map or bounds |
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Mask;
use super::emit;
use super::slots::{
    ALIBI_SLOT, ALIBI_STRIDE_SLOT, BLOCK_TABLES_SLOT, HEADER_SLOTS, KV_FIRST_SLOT,
    KV_SEQUENCES_SLOT, LENGTHS_SLOT, Q_SEQUENCES_SLOT, SINKS_SLOT, Slot,
};
use super::tile::{ClassedBy, TileGrid};
use crate::auxiliary::{AuxTensor, InputName, TensorSizes};
use crate::custom::{CustomBuffer, WgslFunction};
use crate::error::{Error, Result};
use crate::tensor::sequences::KeySequences;
use crate::tensor::shape::{Shape, elements};

/// How many tiles' classes one word of the tile map holds.
const TILES_PER_WORD: usize = 16;

/// Of the table of bounds, as shaders/mask_tables/range_bounds.wgsl has them: the words that a block of its lowest level is
/// about, how many blocks of a level one of the next covers, the words of a block's bounds, and to what number of blocks levels
/// are filled up, so that a workgroup makes blocks of one level.
const BOUNDED_WORDS: usize = 32;
const JOINED_BLOCKS: usize = 8;
const WORDS_OF_BOUNDS: usize = 8;
pub(crate) const BLOCKS_OF_WORKGROUP: usize = 64;

/// Beyond every position, and small enough that sums with positions stay within `i32`.
const FAR: i64 = 1 << 30;

/// What the caller copies into the mask buffer, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) input: InputName,
    /// In messages.
    pub(crate) name: String,
    /// Its first word.
    pub(crate) at: usize,
    /// Its number of words.
    pub(crate) words: usize,
}

/// Where everything lies in the mask buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaskLayout {
    /// The words from the start that are known beforehand.
    pub(crate) head: Vec<u32>,
    /// What the caller copies in.
    pub(crate) inputs: Vec<Region>,
    /// The whole buffer's size in words.
    pub(crate) words: usize,
    /// The sizes of the materialized mask: batch and heads are 1 where the mask is the same along them.
    pub(crate) broadcast: [usize; 2],
    /// Of each table of lists' bits, in the order of their slots: how many lists, and the words of each.
    pub(crate) block_bits: Vec<[usize; 2]>,
    /// Where the classes of tiles come from.
    pub(crate) classed_by: ClassedBy,
    /// Rows of tiles and words per row of the tile map, where there is one.
    pub(crate) tile_map: Option<[usize; 2]>,
    /// The blocks of each level of the table of bounds, where there is one.
    pub(crate) bounds: Vec<usize>,
}

/// What kernels walk over, and how large a map of its tiles may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiling {
    pub(crate) grid: TileGrid,
    /// In bytes, of one sequence: what a sequence gets doesn't depend on how many there are.
    pub(crate) largest_map: u64,
}

impl MaskLayout {
    /// Lays out the mask buffer with space for `tensors`; where a kernel walks over tiles, with the tile map or the bounds that
    /// the mask may need.
    pub(crate) fn new(
        mask: &Mask,
        tensors: &[&TensorSizes],
        score_mod: Option<&WgslFunction>,
        dropout: Option<f32>,
        shape: &Shape,
        tiling: Option<Tiling>,
    ) -> Result<Self> {
        let mut slots = emit::slots(mask);
        slots.extend(score_mod.into_iter().flat_map(emit::custom_slots));
        slots.extend(dropout.into_iter().flat_map(emit::dropout_slots));
        let sizes = tensors.iter().map(|tensor| (tensor.input, tensor.sizes.clone())).collect();
        let differs = mask.differs(&sizes);
        let broadcast = [
            if differs.batch || !shape.sequences.are_uniform() { shape.batch } else { 1 },
            if differs.heads { shape.num_heads } else { 1 },
        ];
        let map = match tiling.filter(|_| mask.reads_tiles()) {
            Some(Tiling { grid, largest_map }) => {
                let map = TileMap::new(grid, broadcast, shape)?;
                let bytes = (map.words_of_sequence as u64).saturating_mul(4);
                Some((map, bytes > largest_map && mask.has_bounds()))
            }
            None => None,
        };
        let classed_by = match map {
            Some((_, true)) => ClassedBy::Bounds,
            _ if mask.reads_tiles() => ClassedBy::Map,
            _ => ClassedBy::ClosedForms,
        };
        let mut builder = Builder {
            shape,
            broadcast,
            sizes,
            // Tensors begin where blocks of bounds do.
            alignment: if classed_by == ClassedBy::Bounds { BOUNDED_WORDS } else { 1 },
            inputs: Vec::new(),
            head: vec![0; HEADER_SLOTS],
            block_bits: Vec::new(),
            at: HEADER_SLOTS + slots.len(),
        };
        for tensor in tensors {
            builder.tensor(tensor)?;
        }
        builder.head[ALIBI_STRIDE_SLOT] = match builder.sizes(AuxTensor::AlibiSlopes) {
            &[batch, heads] if batch > 1 => heads as u32,
            _ => 0,
        };
        for buffer in mask.customs().into_iter().chain(score_mod).flat_map(WgslFunction::buffers) {
            builder.custom_buffer(buffer)?;
        }
        let bounded_words = builder.at;
        if shape.sequences.kv == (KeySequences::Cached { left_padded: false }) {
            // The buffer is zeros where nothing is copied to.
            builder.head[KV_FIRST_SLOT] = builder.take(shape.batch)? as u32;
        }
        if !shape.sequences.are_uniform() {
            builder.head[LENGTHS_SLOT] = builder.take(shape.batch.saturating_mul(2))? as u32;
        }
        for slot in slots {
            builder.slot(slot)?;
        }
        let (mut tile_map, mut bounds) = (None, Vec::new());
        match map {
            Some((_, true)) => bounds = builder.bounds(bounded_words)?,
            Some((map, false)) => tile_map = Some(builder.tile_map(map)?),
            None => {}
        }
        Ok(Self {
            head: builder.head,
            inputs: builder.inputs,
            words: builder.at,
            broadcast: builder.broadcast,
            block_bits: builder.block_bits,
            classed_by,
            tile_map,
            bounds,
        })
    }
}

impl MaskLayout {
    /// The words of the tile map, if there is one.
    pub(crate) fn tile_map_words(&self) -> usize {
        let [batch, heads] = self.broadcast;
        self.tile_map.map_or(0, |[rows, row_words]| batch * heads * rows * row_words)
    }
}

/// The header's slot that says where a tensor starts. Leaves have slots of their own.
fn header_slot(input: AuxTensor) -> Option<usize> {
    match input {
        AuxTensor::AlibiSlopes => Some(ALIBI_SLOT),
        AuxTensor::Sinks => Some(SINKS_SLOT),
        AuxTensor::QStarts | AuxTensor::QLengths => Some(Q_SEQUENCES_SLOT),
        AuxTensor::KvStarts | AuxTensor::KvLengths => Some(KV_SEQUENCES_SLOT),
        AuxTensor::KvFirst => Some(KV_FIRST_SLOT),
        AuxTensor::BlockTables => Some(BLOCK_TABLES_SLOT),
        _ => None,
    }
}

/// The sizes of a tile map.
#[derive(Debug, Clone, Copy)]
struct TileMap {
    rows: usize,
    row_words: usize,
    words_of_sequence: usize,
    words: usize,
}

impl TileMap {
    fn new(grid: TileGrid, [batch, heads]: [usize; 2], shape: &Shape) -> Result<Self> {
        let rows = shape.seq_len_q.div_ceil(grid.block_q);
        let row_words = (shape.seq_len_kv.div_ceil(grid.block_kv)).div_ceil(TILES_PER_WORD);
        let words_of_sequence = elements("tile map", &[heads, rows, row_words])?;
        let words = elements("tile map", &[batch, words_of_sequence])?;
        Ok(Self { rows, row_words, words_of_sequence, words })
    }
}

struct Builder<'a> {
    shape: &'a Shape,
    broadcast: [usize; 2],
    /// The tensors' sizes in words.
    sizes: BTreeMap<AuxTensor, Vec<usize>>,
    /// Inputs begin at multiples of so many words.
    alignment: usize,
    inputs: Vec<Region>,
    head: Vec<u32>,
    block_bits: Vec<[usize; 2]>,
    at: usize,
}

impl Builder<'_> {
    fn tensor(&mut self, tensor: &TensorSizes) -> Result<()> {
        let at = self.region(InputName::Known(tensor.input), tensor.words)?;
        if let Some(slot) = header_slot(tensor.input) {
            self.head[slot] = at as u32;
        }
        Ok(())
    }

    /// Appends the word of a slot.
    fn slot(&mut self, slot: Slot) -> Result<()> {
        let [batch, heads] = self.broadcast;
        let rows = self.shape.seq_len_q;
        let word = match slot {
            Slot::Number(number) => (number.clamp(-FAR, FAR) as i32).cast_unsigned(),
            Slot::Word(word) => word,
            Slot::Start(input) => self.input_at(&InputName::Known(input)) as u32,
            Slot::Stride(input, dim) => match self.sizes(input) {
                sizes if sizes.get(dim) == Some(&1) => 0,
                sizes => {
                    let inner = sizes.iter().skip(dim + 1);
                    inner.fold(1usize, |stride, &size| stride.saturating_mul(size)) as u32
                }
            },
            Slot::Size(input, dim) => {
                self.sizes(input).get(dim).copied().unwrap_or_default() as u32
            }
            Slot::RowFlags => {
                self.take(elements("rows-alone flags", &[batch, heads, rows])?)? as u32
            }
            Slot::RowFlagsBatch => (if batch > 1 { heads * rows } else { 0 }) as u32,
            Slot::RowFlagsHead => (if heads > 1 { rows } else { 0 }) as u32,
            Slot::BlockBits(input, block) => {
                let sizes = self.sizes(input);
                let lists = elements("block_indices", &sizes[..sizes.len().saturating_sub(1)])?;
                let words = self.block_bits_words(block);
                self.block_bits.push([lists, words]);
                self.take(elements("bits of block_indices", &[lists, words])?)? as u32
            }
            Slot::BlockBitsWords(block) => self.block_bits_words(block) as u32,
            Slot::CustomStart(name) => self.input_at(&InputName::WgslFunction(name)) as u32,
            Slot::CustomLen(len) => len as u32,
        };
        self.head.push(word);
        Ok(())
    }

    /// The words of a bit for each block of so many keys.
    const fn block_bits_words(&self, block: usize) -> usize {
        self.shape.seq_len_kv.div_ceil(block).div_ceil(32)
    }

    fn sizes(&self, input: AuxTensor) -> &[usize] {
        self.sizes.get(&input).map_or(&[], Vec::as_slice)
    }

    /// Appends the buffer of a user-defined function; functions that name the same one share it.
    fn custom_buffer(&mut self, buffer: &CustomBuffer) -> Result<()> {
        let input = InputName::WgslFunction(Arc::clone(&buffer.name));
        match self.inputs.iter().find(|region| region.input == input) {
            None => {
                self.region(input, buffer.len)?;
            }
            Some(region) if region.words == buffer.len => {}
            Some(Region { words: len, .. }) => {
                return Err(Error::operand(
                    format!("wgsl buffer `{}`", buffer.name),
                    format!("the same number of elements in every function, {len}"),
                    buffer.len,
                ));
            }
        }
        Ok(())
    }

    fn input_at(&self, name: &InputName) -> usize {
        self.inputs.iter().find(|region| region.input == *name).map_or(0, |region| region.at)
    }

    /// Appends what the caller copies in. Returns its first word.
    fn region(&mut self, input: InputName, words: usize) -> Result<usize> {
        self.take(self.at.next_multiple_of(self.alignment) - self.at)?;
        let at = self.take(words)?;
        let name = input.name().into_owned();
        self.inputs.push(Region { input, name, at, words });
        Ok(at)
    }

    /// Appends the tile map and fills the header. Returns its rows and the words of each.
    fn tile_map(&mut self, map: TileMap) -> Result<[usize; 2]> {
        let [batch, heads] = self.broadcast;
        let TileMap { rows, row_words, words, .. } = map;
        let at = self.take(words)?;
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

    /// Appends bounds of the first `words` words and fills the header. Returns the blocks of each level, the lowest first.
    fn bounds(&mut self, words: usize) -> Result<Vec<usize>> {
        let mut blocks = words.div_ceil(BOUNDED_WORDS);
        let mut levels = vec![blocks];
        while blocks > JOINED_BLOCKS {
            blocks = blocks.div_ceil(JOINED_BLOCKS);
            levels.push(blocks);
        }
        for level in &mut levels {
            *level = level.next_multiple_of(BLOCKS_OF_WORKGROUP);
        }
        let at = self.take(levels.iter().sum::<usize>() * WORDS_OF_BOUNDS)?;
        for (slot, word) in [at, words].into_iter().enumerate() {
            self.head[slot] = word as u32;
        }
        Ok(levels)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(mask: &str, tokens: usize, largest_map: u64) -> MaskLayout {
        layout_of(mask, &Shape::new(1, 1, tokens, 8), largest_map)
    }

    fn layout_of(mask: &str, shape: &Shape, largest_map: u64) -> MaskLayout {
        let mask: Mask = mask.parse().unwrap();
        let specs = mask.aux_specs(shape);
        let tensors: Vec<_> = specs.iter().map(|spec| spec.resolve(None).unwrap()).collect();
        let tiling = Tiling { grid: TileGrid { block_q: 32, block_kv: 8 }, largest_map };
        let tensors: Vec<_> = tensors.iter().collect();
        MaskLayout::new(&mask, &tensors, None, None, shape, Some(tiling)).unwrap()
    }

    #[test]
    fn bounds_take_a_map_s_place_where_it_would_be_larger() {
        // 32 rows of 128 tiles, 16 to a word.
        let map = layout("documents", 1024, 1024);
        assert_eq!((map.classed_by, map.tile_map), (ClassedBy::Map, Some([32, 8])));
        let bounds = layout("documents", 1024, 1023);
        assert_eq!((bounds.classed_by, bounds.tile_map), (ClassedBy::Bounds, None));
        assert!(bounds.inputs.iter().all(|region| region.at.is_multiple_of(BOUNDED_WORDS)));
        // 2 x 1024 words behind one block of slots: 65 blocks, and 9, and 2.
        assert_eq!(bounds.head[..2], [2080, 2080]);
        assert_eq!((&bounds.bounds[..], bounds.words), (&[128, 64, 64][..], 2080 + 256 * 8));

        // More sequences take more of either, and nothing else.
        let batch = Shape::new(9, 1, 1024, 8);
        assert_eq!(layout_of("documents", &batch, 1024).classed_by, ClassedBy::Map);
        assert_eq!(layout_of("documents", &batch, 1023).classed_by, ClassedBy::Bounds);

        assert_eq!(layout("documents & dense", 1024, 0).classed_by, ClassedBy::Bounds);
        // No bounds say what a bit is.
        assert_eq!(layout("dense & causal", 1024, 0).classed_by, ClassedBy::Map);
        let closed = layout("causal", 1024, 0);
        assert_eq!((closed.classed_by, closed.words), (ClassedBy::ClosedForms, closed.head.len()));
    }

    /// What grows with the square of the tokens is the map alone.
    #[test]
    fn a_million_tokens_fit_a_binding() {
        let bytes = |tokens| layout("documents & causal", tokens, 4 << 20).words * 4;
        assert!(bytes(1 << 20) < 11 << 20, "{}", bytes(1 << 20));
        assert!(bytes(1 << 20) < 5 * bytes(1 << 18));
    }

    #[test]
    fn blocks_of_bounds_are_what_the_kernels_take_them_for() {
        let text = include_str!("../../shaders/mask_tables/range_bounds.wgsl");
        for (name, value) in [
            ("BOUNDED_WORDS", BOUNDED_WORDS),
            ("JOINED_BLOCKS", JOINED_BLOCKS),
            ("LANES", WORDS_OF_BOUNDS / 2),
            ("BLOCKS_OF_WORKGROUP", BLOCKS_OF_WORKGROUP),
        ] {
            assert!(text.contains(&format!("const {name}: u32 = {value}u;")), "{name}");
        }
    }
}
