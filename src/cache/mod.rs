//! Caches of keys and values on the device, and the tokens that are added to them.

// The keys and values of tokens that have been, on the device: what a cache looks like (`shape`), how tokens are added
// to it (`append`) and turned by their positions (`rotary`).

pub(crate) mod append;
pub(crate) mod rotary;
pub(crate) mod shape;

pub use crate::kernel::key::Pairing;
pub use append::{AppendBuffers, AppendPlan, NewTokens};
pub use rotary::Rotary;
pub use shape::{CacheForm, CacheShape};

use wgpu::{BufferSlice, BufferUsages};

use crate::auxiliary::{AuxBuffers, AuxTensor};
use crate::error::{Error, Result};
use crate::kernel::pipeline::Kernels;
use crate::plan::attention::AttentionBuffers;
use crate::plan::buffers::Operand;
use crate::problem::Problem;
use crate::tensor::shape::MAX_SEQ_LEN;

/// The keys and values of a batch of sequences, on the device, each sequence at a length of its own.
///
/// The lengths lie on the device, too, and move on there: [`crate::cache::AppendPlan`] adds tokens at each sequence's end, and
/// attention over the cache ([`CacheShape::problem`], [`KvCache::attention_buffers`]) reads as far as they say. So a loop that
/// encodes append and attention in each step writes nothing from the host. The host keeps a bound for each length, which
/// is the length itself where it's told how many tokens are added, and refuses what would go beyond the capacity before
/// anything is recorded. Where it isn't told, the device refuses: it adds no token of that step, to no sequence, and notes
/// why: [`KvCache::encode_check`].
///
/// ```no_run
/// # fn f(device: &wgpu::Device, queue: &wgpu::Queue, [q, k, v, o]: [wgpu::Buffer; 4]) -> wgpu_attention::Result<()> {
/// use wgpu_attention::{AttentionPlan, Kernels, KvCache, Mask, AuxBuffers};
/// use wgpu_attention::cache::{AppendBuffers, AppendPlan, CacheShape, NewTokens};
/// use wgpu_attention::tensor::QuerySequences;
/// let kernels = Kernels::new(device, &Default::default());
/// let shape = CacheShape::new(2, 8, 1024, 64);
/// let mut cache = KvCache::new(&kernels, &shape)?;
/// let append = AppendPlan::new(&kernels, &shape, &NewTokens::new(1))?;
/// let problem = shape.problem(8, 1, QuerySequences::Uniform).mask(Mask::causal());
/// let attention = AttentionPlan::new(&kernels, &problem, &Default::default())?;
/// for _ in 0..256 {
///     let mut encoder = device.create_command_encoder(&Default::default());
///     append.encode(&mut encoder, &mut cache, &AppendBuffers::new(k.slice(..), v.slice(..)))?;
///     let buffers = cache.attention_buffers(&problem, q.slice(..), AuxBuffers::new(), o.slice(..))?;
///     attention.encode(&mut encoder, &buffers)?;
///     queue.submit([encoder.finish()]);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct KvCache {
    kernels: Kernels,
    shape: CacheShape,
    k: wgpu::Buffer,
    /// None where values are in the keys.
    v: Option<wgpu::Buffer>,
    /// i32 `[batch]`, then what was wrong.
    lengths: wgpu::Buffer,
    /// i32 `[batch, blocks_per_sequence]`, where there are blocks.
    tables: Option<wgpu::Buffer>,
    /// 0, 1, 2 …: where lengths come from that are set from the host.
    counts: wgpu::Buffer,
    /// The most tokens that each sequence may have.
    bounds: Vec<usize>,
    /// How many blocks of each sequence the host has given.
    given_blocks: Vec<Option<usize>>,
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Errors
    /// Where the shape is invalid or larger than the device's limits, or the device fails to allocate.
    pub fn new(kernels: &Kernels, shape: &CacheShape) -> Result<Self> {
        let problem = shape.resolve()?;
        let [k, v] = [problem.k, problem.v].map(|placed| placed.bytes.max(4));
        let entries = [shape.batch, shape.blocks_per_sequence()];
        let table = crate::tensor::shape::elements("block_tables", &entries)? * 4;
        let device = kernels.device();
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let buffer = |name, size: u64| crate::device::buffer(device, name, size, usage);
        // A ring's lengths go beyond its capacity, and going back in it would bring back keys that aren't there.
        let counts: Vec<u32> = match shape.form {
            CacheForm::Ring => vec![0],
            _ => (0..=shape.capacity as u32).collect(),
        };
        Ok(Self {
            kernels: kernels.clone(),
            shape: *shape,
            k: buffer("the cache's k", k)?,
            v: match shape.values_in_keys {
                true => None,
                false => Some(buffer("the cache's v", v)?),
            },
            lengths: buffer("cache lengths", (shape.batch as u64 + 1) * 4)?,
            tables: match table {
                0 => None,
                _ => Some(buffer("block tables", table as u64)?),
            },
            counts: crate::plan::filled_buffer(
                device,
                "cache counts",
                bytemuck::cast_slice(&counts),
                BufferUsages::COPY_SRC,
            )?,
            bounds: vec![0; shape.batch],
            given_blocks: vec![None; shape.batch],
        })
    }

    /// What the cache looks like.
    pub const fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// The keys.
    pub fn k(&self) -> BufferSlice<'_> {
        self.k.slice(..)
    }

    /// The values; the keys, where values are in them ([`CacheShape::values_in_keys`]).
    pub fn v(&self) -> BufferSlice<'_> {
        self.v.as_ref().unwrap_or(&self.k).slice(..)
    }

    /// i32 `[batch]`: how many tokens each sequence has, or has had in a ring. An application's own kernels may write it.
    pub fn lengths(&self) -> BufferSlice<'_> {
        self.lengths.slice(..self.shape.batch.max(1) as u64 * 4)
    }

    /// i32 `[batch, blocks_per_sequence]` of a paged cache, for applications that write it on the device. The entries are
    /// checked there: see [`KvCache::encode_check`]. From the host: [`KvCache::set_table`].
    pub const fn tables(&self) -> Option<&wgpu::Buffer> {
        self.tables.as_ref()
    }

    /// `buffers` with the cache's lengths and tables, for attention over it.
    pub fn aux_buffers<'a>(&'a self, buffers: AuxBuffers<'a>) -> AuxBuffers<'a> {
        let buffers = buffers.with(AuxTensor::KvLengths, self.lengths());
        match &self.tables {
            Some(tables) => buffers.with(AuxTensor::BlockTables, tables.slice(..)),
            None => buffers,
        }
    }

    /// The buffers of attention over the cache, for a plan of `problem`: `aux` is what the problem reads besides the cache's
    /// lengths and tables. Nobody has asked for lse then; set it where it's wanted.
    ///
    /// # Errors
    /// [`Error::Operand`] where the problem is one over a cache of another shape, type or layout.
    pub fn attention_buffers<'a>(
        &'a self,
        problem: &Problem,
        q: BufferSlice<'a>,
        aux: AuxBuffers<'a>,
        o: BufferSlice<'a>,
    ) -> Result<AttentionBuffers<'a>> {
        let shape = problem.shape();
        let own = self.shape.problem(shape.num_heads, shape.seq_len_q, shape.sequences.q);
        let of_cache = |problem: &Problem| {
            let (strides, dtypes) = (problem.strides(), problem.dtypes);
            (*problem.shape(), [strides.k, strides.v], [dtypes.k, dtypes.v])
        };
        if of_cache(problem) != of_cache(&own) {
            return Err(Error::operand(
                "cache",
                format!("keys and values as the plan has them, {:?}", of_cache(problem)),
                format!("{:?}", of_cache(&own)),
            ));
        }
        let aux = self.aux_buffers(aux);
        Ok(AttentionBuffers { q, k: self.k(), v: self.v(), aux, o, lse: None })
    }

    /// The most tokens that each sequence can have by now, as far as the host knows; in a ring, has had.
    pub fn length_bounds(&self) -> &[usize] {
        &self.bounds
    }

    /// Records that sequence `b` goes on from its first `length` tokens: 0 to reuse its place, fewer than there are to take
    /// back drafts that were rejected, those of a prefix whose blocks another sequence has filled. A ring takes 0 alone.
    ///
    /// # Errors
    /// [`Error::Operand`] where there's no such sequence, or it can't have that many tokens.
    pub fn set_length(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        b: usize,
        length: usize,
    ) -> Result<()> {
        self.check_sequence(b)?;
        let most = match self.shape.form {
            CacheForm::Ring => 0,
            CacheForm::Paged { block_size, .. } => {
                let given = self.given_blocks[b].map(|blocks| blocks * block_size);
                given.unwrap_or(self.bounds[b]).min(self.shape.capacity)
            }
            CacheForm::Contiguous => self.bounds[b],
        };
        if length > most {
            return Err(Error::operand(
                format!("length of sequence {b}"),
                format!("0 to {most}"),
                length,
            ));
        }
        let (from, to) = (length as u64 * 4, b as u64 * 4);
        encoder.copy_buffer_to_buffer(&self.counts, from, &self.lengths, to, 4);
        self.bounds[b] = length;
        Ok(())
    }

    /// Tells the host that sequence `b` has at most `length` tokens: where an application advances the lengths itself, or
    /// took fewer tokens than it said.
    ///
    /// # Errors
    /// [`Error::Operand`] where there's no such sequence or no room for that many.
    pub fn assume_length(&mut self, b: usize, length: usize) -> Result<()> {
        self.check_sequence(b)?;
        let most = self.most_tokens();
        if length > most {
            return Err(Error::operand(
                format!("length of sequence {b}"),
                format!("0 to {most}"),
                length,
            ));
        }
        self.bounds[b] = length;
        Ok(())
    }

    /// Writes the blocks of sequence `b`, from its first one on: when sequences join, and when they grow into another.
    /// Blocks may be shared; to write to one that is shared, copy it first.
    ///
    /// # Errors
    /// [`Error::Operand`] where the cache has no blocks or no such sequence, or a block lies outside the pool; nothing is
    /// written then.
    pub fn set_table(&mut self, queue: &wgpu::Queue, b: usize, blocks: &[u32]) -> Result<()> {
        self.check_sequence(b)?;
        let (Some(tables), CacheForm::Paged { blocks: pool, .. }) = (&self.tables, self.shape.form)
        else {
            return Err(Error::operand(
                "block_tables",
                "a paged cache",
                format!("{:?}", self.shape.form),
            ));
        };
        let room = self.shape.blocks_per_sequence();
        if blocks.len() > room {
            return Err(Error::operand(
                format!("block_tables[{b}]"),
                format!("at most {room} blocks"),
                blocks.len(),
            ));
        }
        if let Some(at) = blocks.iter().position(|&block| block as usize >= pool) {
            return Err(Error::operand(
                format!("block_tables[{b}, {at}]"),
                format!("0 to blocks - 1 = {}", pool - 1),
                blocks[at],
            ));
        }
        // What isn't given leads nowhere, so that nothing is written to another sequence's blocks.
        let mut row = vec![u32::MAX; room];
        row[..blocks.len()].copy_from_slice(blocks);
        queue.write_buffer(tables, (b * room * 4) as u64, bytemuck::cast_slice(&row));
        self.given_blocks[b] = Some(blocks.len());
        Ok(())
    }

    /// Records the copy of one word to `destination` (`BufferUsages::COPY_DST`), which [`KvCache::check`] puts into words:
    /// whether every token that was to be appended had its place. Steps in which one hadn't have added none.
    ///
    /// # Errors
    /// [`Error::Operand`] where the slice is smaller or lacks the usage.
    pub fn encode_check(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        destination: BufferSlice<'_>,
    ) -> Result<()> {
        Operand::new("destination", destination, 1)
            .check(BufferUsages::COPY_DST, wgpu::COPY_BUFFER_ALIGNMENT)?;
        let (buffer, at) = (destination.buffer(), destination.offset());
        let fault = self.shape.batch as u64 * 4;
        encoder.copy_buffer_to_buffer(&self.lengths, fault, buffer, at, 4);
        Ok(())
    }

    /// What the word of [`KvCache::encode_check`] says.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the last sequence of which tokens had no place, and why.
    pub fn check(&self, word: u32) -> Result<()> {
        let Some(fault) = word.checked_sub(1) else {
            return Ok(());
        };
        let (b, kind) = (fault / 3, fault % 3);
        let (expected, found) = match kind {
            0 => (
                format!("room for every token, at most {}", self.most_tokens()),
                "more tokens, so that none were added",
            ),
            1 => (
                "a block in the pool for every token".to_owned(),
                "one outside, so that no tokens were added",
            ),
            _ => (
                "lengths that agree with each other".to_owned(),
                "ones that don't, so that no tokens were added",
            ),
        };
        Err(Error::operand(format!("the cache's sequence {b}"), expected, found))
    }

    /// Records that what was wrong so far is forgotten.
    pub fn clear_error(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(&self.lengths, self.shape.batch as u64 * 4, Some(4));
    }

    /// The most tokens that a sequence can ever have.
    const fn most_tokens(&self) -> usize {
        match self.shape.form {
            CacheForm::Ring => MAX_SEQ_LEN,
            _ => self.shape.capacity,
        }
    }

    /// Whether there's room for so many more tokens of each sequence.
    fn check_room(&self, added: &[usize]) -> Result<()> {
        for (b, (&bound, &added)) in self.bounds.iter().zip(added).enumerate() {
            if bound + added > self.most_tokens() {
                return Err(Error::operand(
                    format!("the cache's sequence {b}"),
                    format!("room for at most {} tokens", self.most_tokens()),
                    format!("{bound} + {added}"),
                ));
            }
            if let (CacheForm::Paged { block_size, .. }, Some(given)) =
                (self.shape.form, self.given_blocks[b])
                && added > 0
                && bound + added > given * block_size
            {
                return Err(Error::operand(
                    format!("block_tables[{b}]"),
                    format!("blocks of {block_size} for {bound} + {added} tokens"),
                    given,
                ));
            }
        }
        Ok(())
    }

    fn check_sequence(&self, b: usize) -> Result<()> {
        if b < self.shape.batch {
            return Ok(());
        }
        Err(Error::operand("sequence", format!("one of the cache's {}", self.shape.batch), b))
    }
}
