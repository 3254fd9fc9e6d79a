//! What a cache looks like: its sizes, its type, and where its rows lie.

use crate::error::{Error, Result};
use crate::problem::{Problem, Resolved};
use crate::tensor::dtype::{Dtype, Dtypes};
use crate::tensor::sequences::{KeySequences, QuerySequences, Sequences};
use crate::tensor::shape::{Layout, Shape};

/// The sizes of a [`crate::KvCache`], the type of its elements, and where its rows lie.
///
/// ```
/// use wgpu_attention::Dtype;
/// use wgpu_attention::cache::CacheShape;
/// // Room for 4 sequences of up to 4096 tokens, in 1024 blocks of 16 that they share: 8 kv heads of 128 components.
/// let shape = CacheShape::new(4, 8, 4096, 128).paged(16, 1024).dtype(Dtype::F16);
/// assert_eq!(shape.bytes()?, 2 * (1024 * 16) * 8 * 128 * 2);
/// // DeepSeek's latent head: 576 components, the first 512 of which are the value.
/// let latent = CacheShape::new(1, 1, 4096, 576).head_dim_v(512).values_in_keys(true);
/// assert_eq!(latent.bytes()?, 4096 * 576 * 4);
/// # Ok::<(), wgpu_attention::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CacheShape {
    /// Number of sequences.
    pub batch: usize,
    /// Number of key and value heads.
    pub num_kv_heads: usize,
    /// The most tokens that a sequence may have; of a ring, the most that it keeps.
    pub capacity: usize,
    /// Size of a key: 1 to 576.
    pub head_dim: usize,
    /// Size of a value: 1 to 576.
    pub head_dim_v: usize,
    /// Whether values are the first `head_dim_v` components of the keys, as of MLA's latent heads: then the cache holds keys
    /// alone, and attention reads both from them. Not with 8 or 4 bits, whose rows have scales.
    pub values_in_keys: bool,
    /// The type of keys and values.
    pub dtype: Dtype,
    /// Whether a head's rows stand together, or a token's heads.
    pub layout: Layout,
    /// Where the rows lie.
    pub form: CacheForm,
}

/// Where the rows of a cache lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CacheForm {
    /// Room for every sequence's whole capacity: `[batch, num_kv_heads, capacity, head_dim]`.
    #[default]
    Contiguous,
    /// The same, and what is older than the capacity is written over: for masks with a window. Queries appended together
    /// with a window of `left` need a capacity of `left` plus their number: the oldest of them looks back furthest.
    Ring,
    /// A pool of blocks: `[blocks, num_kv_heads, block_size, head_dim]`, with a table of blocks for each sequence.
    Paged {
        /// The rows of a block, from 1 on; powers of two are found faster.
        block_size: usize,
        /// How many blocks there are.
        blocks: usize,
    },
}

impl CacheShape {
    /// A contiguous cache of f32, `[batch, num_kv_heads, capacity, head_dim]`.
    pub const fn new(batch: usize, num_kv_heads: usize, capacity: usize, head_dim: usize) -> Self {
        Self {
            batch,
            num_kv_heads,
            capacity,
            head_dim,
            head_dim_v: head_dim,
            values_in_keys: false,
            dtype: Dtype::F32,
            layout: Layout::Bhsd,
            form: CacheForm::Contiguous,
        }
    }

    setters! {
        const batch: usize,
        const num_kv_heads: usize,
        const capacity: usize,
        const head_dim: usize,
        const head_dim_v: usize,
        const values_in_keys: bool,
        const dtype: Dtype,
        const layout: Layout,
        const form: CacheForm,
    }

    /// The same as a ring.
    #[must_use]
    pub const fn ring(self) -> Self {
        Self { form: CacheForm::Ring, ..self }
    }

    /// The same in `blocks` blocks of `block_size` rows.
    #[must_use]
    pub const fn paged(self, block_size: usize, blocks: usize) -> Self {
        Self { form: CacheForm::Paged { block_size, blocks }, ..self }
    }

    /// How many entries a sequence has in `block_tables`; 0 where there are none.
    pub const fn blocks_per_sequence(&self) -> usize {
        match self.form {
            CacheForm::Paged { block_size: size @ 1.., .. } => self.capacity.div_ceil(size),
            _ => 0,
        }
    }

    /// The bytes of keys and values together; of keys alone where values are in them.
    ///
    /// # Errors
    /// Where the sizes aren't valid.
    pub fn bytes(&self) -> Result<usize> {
        let problem = self.resolve()?;
        let values = if self.values_in_keys { 0 } else { problem.v.bytes };
        Ok((problem.k.bytes + values) as usize)
    }

    /// Checks the sizes: attention over the cache, where its keys and values lie as they do here.
    pub(super) fn resolve(&self) -> Result<Resolved> {
        if self.capacity == 0 {
            return Err(Error::operand("the cache's capacity", "at least 1", 0));
        }
        if self.values_in_keys && self.head_dim_v > self.head_dim {
            return Err(Error::operand(
                "head_dim_v",
                format!("at most head_dim = {}, as values are in the keys", self.head_dim),
                self.head_dim_v,
            ));
        }
        if self.values_in_keys && self.dtype.is_quantized() {
            return Err(Error::operand(
                "the cache's type",
                "f32, f16 or bf16, as values are in the keys and a quantized row has scales",
                self.dtype,
            ));
        }
        Resolved::new(self.problem(self.num_kv_heads, 1, QuerySequences::Uniform))
    }

    /// Attention of `num_heads` query heads over this cache, with up to `seq_len_q` queries of each sequence: shape, types
    /// of k and v and their strides are the cache's, the rest is as in [`Problem::new`].
    pub fn problem(&self, num_heads: usize, seq_len_q: usize, q: QuerySequences) -> Problem {
        let kv = match self.form {
            CacheForm::Contiguous => KeySequences::Cached { left_padded: false },
            CacheForm::Ring => KeySequences::Ring,
            CacheForm::Paged { block_size, blocks } => KeySequences::Paged {
                block_size,
                blocks,
                blocks_per_sequence: self.blocks_per_sequence(),
            },
        };
        let shape = Shape::new(self.batch, num_heads, seq_len_q, self.head_dim)
            .num_kv_heads(self.num_kv_heads)
            .seq_len_kv(self.capacity)
            .head_dim_v(self.head_dim_v)
            .sequences(Sequences { q, kv });
        let dtypes = Dtypes { k: self.dtype, v: self.dtype, ..Dtypes::default() };
        let problem = Problem::new(shape).dtypes(dtypes);
        let [k, v] = [problem.k_dims(), problem.v_dims()].map(|dims| self.layout.strides(dims));
        let v = if self.values_in_keys { k } else { v };
        problem.k_strides(k).v_strides(v)
    }
}
