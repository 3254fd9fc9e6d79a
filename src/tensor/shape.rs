//! Sizes, layouts and strides: what the tensors look like, and no more.

use crate::error::{Error, Result};
use crate::tensor::dtype::Dtype;
use crate::tensor::sequences::{KeySequences, QuerySequences, Sequences};

/// The largest `head_dim` and `head_dim_v`.
pub const MAX_HEAD_DIM: usize = 576;

/// The largest sequence length: positions and their sums stay within `i32`.
pub const MAX_SEQ_LEN: usize = 1 << 29;

/// The most elements of a tensor: bytes, and what is counted for a few tensors together, fit `usize` and `u64`.
const MOST_ELEMENTS: usize = isize::MAX as usize >> if usize::BITS == 64 { 7 } else { 2 };

/// The sizes of an attention problem.
///
/// | tensor | shape |
/// |---|---|
/// | q | `[batch, num_heads, seq_len_q, head_dim]` |
/// | k | `[batch, num_kv_heads, seq_len_kv, head_dim]` |
/// | v | `[batch, num_kv_heads, seq_len_kv, head_dim_v]` |
/// | o | `[batch, num_heads, seq_len_q, head_dim_v]` |
/// | lse | `[batch, num_heads, seq_len_q]` |
///
/// Query head `h` reads key and value head `h / (num_heads / num_kv_heads)`. Sequences of different lengths: [`Sequences`].
///
/// ```
/// use wgpu_attention::Shape;
/// let decoder = Shape::new(2, 8, 128, 64).num_kv_heads(2); // grouped-query self-attention
/// let cross = Shape::new(2, 8, 10, 64).seq_len_kv(128);    // 10 queries over 128 encoder outputs
/// assert_eq!(decoder.k_len().unwrap(), 2 * 2 * 128 * 64);
/// assert_eq!(cross.o_len().unwrap(), 2 * 8 * 10 * 64);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Shape {
    /// Number of sequences; may be 0.
    pub batch: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Number of queries per sequence, or the most that one may have; may be 0.
    pub seq_len_q: usize,
    /// Number of keys per sequence, or the most that one may have; may be 0.
    pub seq_len_kv: usize,
    /// Size of a query and of a key: 1 to 576.
    pub head_dim: usize,
    /// Size of a value and of an output: 1 to 576.
    pub head_dim_v: usize,
    /// How the sequences lie in memory, and whether they have lengths of their own.
    pub sequences: Sequences,
}

impl Shape {
    /// Self-attention: as many keys as queries, as many kv heads as heads, values as wide as keys.
    pub const fn new(batch: usize, num_heads: usize, seq_len: usize, head_dim: usize) -> Self {
        Self {
            batch,
            num_heads,
            num_kv_heads: num_heads,
            seq_len_q: seq_len,
            seq_len_kv: seq_len,
            head_dim,
            head_dim_v: head_dim,
            sequences: Sequences { q: QuerySequences::Uniform, kv: KeySequences::Uniform },
        }
    }

    setters! {
        const batch: usize,
        const num_heads: usize,
        const num_kv_heads: usize,
        const seq_len_q: usize,
        const seq_len_kv: usize,
        const head_dim: usize,
        const head_dim_v: usize,
        const sequences: Sequences,
    }

    /// Whether every size is one that the kernels serve.
    ///
    /// # Errors
    /// [`Error::Operand`] that names the first size that isn't.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = |name: &str, size: usize| match size {
            0 => Err(Error::operand(name, "at least 1", 0)),
            _ => Ok(()),
        };
        let dim = |name: &str, size: usize| match size {
            1..=MAX_HEAD_DIM => Ok(()),
            _ => Err(Error::operand(name, format!("1 to {MAX_HEAD_DIM}"), size)),
        };
        let seq = |name: &str, size: usize| match size {
            0..=MAX_SEQ_LEN => Ok(()),
            _ => Err(Error::operand(name, format!("at most {MAX_SEQ_LEN}"), size)),
        };
        at_least_one("num_heads", self.num_heads)?;
        at_least_one("num_kv_heads", self.num_kv_heads)?;
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(Error::operand(
                "num_heads",
                format!("a multiple of num_kv_heads = {}", self.num_kv_heads),
                self.num_heads,
            ));
        }
        dim("head_dim", self.head_dim)?;
        dim("head_dim_v", self.head_dim_v)?;
        seq("seq_len_q", self.seq_len_q)?;
        seq("seq_len_kv", self.seq_len_kv)?;
        self.validate_sequences()?;
        // As if nothing were empty: products of some of the sizes don't overflow either.
        for (name, dims) in
            [("q", self.q_dims()), ("k", self.k_dims()), ("v", self.v_dims()), ("o", self.o_dims())]
        {
            elements(name, &dims.map(|dim| dim.max(1)))?;
        }
        elements("q", &[self.batch.max(1), self.num_heads, self.seq_len_q.max(1)])?;
        elements("k", &[self.batch.max(1), self.num_kv_heads, self.seq_len_kv.max(1)])?;
        Ok(())
    }

    fn validate_sequences(&self) -> Result<()> {
        let total = |name: &str, total: usize| match total {
            0..=MAX_SEQ_LEN => Ok(()),
            _ => Err(Error::operand(name, format!("at most {MAX_SEQ_LEN} rows in all"), total)),
        };
        if let QuerySequences::Packed { total: rows } = self.sequences.q {
            total("packed queries", rows)?;
        }
        match self.sequences.kv {
            KeySequences::Packed { total: rows } => total("packed keys", rows),
            KeySequences::Ring if self.seq_len_kv == 0 => {
                Err(Error::operand("a ring's seq_len_kv", "at least 1", 0))
            }
            KeySequences::Paged { block_size, blocks, blocks_per_sequence } => {
                if !(1..=MAX_SEQ_LEN).contains(&block_size) {
                    let expected = format!("1 to {MAX_SEQ_LEN}");
                    return Err(Error::operand("block_size", expected, block_size));
                }
                if !(1..=MAX_SEQ_LEN).contains(&blocks) {
                    return Err(Error::operand("blocks", format!("1 to {MAX_SEQ_LEN}"), blocks));
                }
                if self.seq_len_kv.div_ceil(block_size) > blocks_per_sequence {
                    return Err(Error::operand(
                        "blocks_per_sequence",
                        format!(
                            "enough blocks of {block_size} for seq_len_kv = {}",
                            self.seq_len_kv
                        ),
                        blocks_per_sequence,
                    ));
                }
                total("blocks_per_sequence", blocks_per_sequence)
            }
            _ => Ok(()),
        }
    }

    /// Number of elements of q.
    ///
    /// # Errors
    /// [`Error::Operand`] where the product doesn't fit `usize`.
    pub fn q_len(&self) -> Result<usize> {
        elements("q", &self.q_dims())
    }

    /// Number of elements of k. Errors as [`Shape::q_len`].
    pub fn k_len(&self) -> Result<usize> {
        elements("k", &self.k_dims())
    }

    /// Number of elements of v. Errors as [`Shape::q_len`].
    pub fn v_len(&self) -> Result<usize> {
        elements("v", &self.v_dims())
    }

    /// Number of elements of o. Errors as [`Shape::q_len`].
    pub fn o_len(&self) -> Result<usize> {
        elements("o", &self.o_dims())
    }

    /// Number of elements of lse. Errors as [`Shape::q_len`].
    pub fn lse_len(&self) -> Result<usize> {
        let [batch, rows] = self.q_rows();
        elements("lse", &[batch, self.num_heads, rows])
    }

    /// Number of elements of a `[batch, num_heads, seq_len_q, seq_len_kv]` tensor. Errors as [`Shape::q_len`].
    pub fn scores_len(&self) -> Result<usize> {
        elements("scores", &[self.batch, self.num_heads, self.seq_len_q, self.seq_len_kv])
    }

    /// How many query heads read one kv head.
    pub const fn group_size(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// `1 / sqrt(head_dim)`, the scale of the scores unless another is given.
    pub fn default_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// The batch indices and the rows of each that q, o and lse have in memory.
    pub const fn q_rows(&self) -> [usize; 2] {
        match self.sequences.q {
            QuerySequences::Packed { total } => [1, total],
            QuerySequences::Uniform | QuerySequences::LeftPadded => [self.batch, self.seq_len_q],
        }
    }

    /// The batch indices and the rows of each that k and v have in memory.
    pub const fn kv_rows(&self) -> [usize; 2] {
        match self.sequences.kv {
            KeySequences::Packed { total } => [1, total],
            KeySequences::Paged { block_size, blocks, .. } => [blocks, block_size],
            KeySequences::Uniform | KeySequences::Cached { .. } | KeySequences::Ring => {
                [self.batch, self.seq_len_kv]
            }
        }
    }

    /// q's dimensions in memory, `[batch, num_heads, rows, head_dim]` whatever the layout: packed sequences have a batch of 1.
    pub const fn q_dims(&self) -> [usize; 4] {
        let [batch, rows] = self.q_rows();
        [batch, self.num_heads, rows, self.head_dim]
    }

    /// k's, `[batch or blocks, num_kv_heads, rows, head_dim]`.
    pub const fn k_dims(&self) -> [usize; 4] {
        let [batch, rows] = self.kv_rows();
        [batch, self.num_kv_heads, rows, self.head_dim]
    }

    /// v's, `[batch or blocks, num_kv_heads, rows, head_dim_v]`.
    pub const fn v_dims(&self) -> [usize; 4] {
        let [batch, rows] = self.kv_rows();
        [batch, self.num_kv_heads, rows, self.head_dim_v]
    }

    /// o's, `[batch, num_heads, rows, head_dim_v]`.
    pub const fn o_dims(&self) -> [usize; 4] {
        let [batch, rows] = self.q_rows();
        [batch, self.num_heads, rows, self.head_dim_v]
    }
}

/// The product of `dims`, or an error that names the tensor.
pub(crate) fn elements(name: &str, dims: &[usize]) -> Result<usize> {
    // Zeros first: an empty tensor has no size to overflow.
    if dims.contains(&0) {
        return Ok(0);
    }
    let product = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    product.filter(|&product| product <= MOST_ELEMENTS).ok_or_else(|| {
        Error::operand(
            name,
            "a number of elements that fits the address space",
            format!("{dims:?}"),
        )
    })
}

/// The order of a tensor's dimensions in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[batch, heads, seq, dim]`
    #[default]
    Bhsd,
    /// `[batch, seq, heads, dim]`
    Bshd,
}

impl Layout {
    /// The strides of a dense tensor of this layout whose sizes are `[batch, heads, seq, dim]`.
    pub fn strides(self, [_, heads, seq, dim]: [usize; 4]) -> Strides {
        let batch = heads.saturating_mul(seq).saturating_mul(dim);
        match self {
            Self::Bhsd => Strides { batch, head: seq.saturating_mul(dim), seq: dim, dim: 1 },
            Self::Bshd => Strides { batch, head: dim, seq: heads.saturating_mul(dim), dim: 1 },
        }
    }
}

/// Distances between neighbours of a tensor, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one sequence to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one position to the next.
    pub seq: usize,
    /// From one component to the next; 1 is fastest.
    pub dim: usize,
}

impl Strides {
    /// `[batch, head, seq, dim]`
    pub(crate) const fn to_array(self) -> [usize; 4] {
        [self.batch, self.head, self.seq, self.dim]
    }

    /// How many elements a tensor of `dims` with these strides spans, from its first to its last.
    pub(crate) fn span(self, name: &str, dims: [usize; 4]) -> Result<usize> {
        if dims.contains(&0) {
            return Ok(0);
        }
        let strides = self.to_array();
        dims.iter()
            .zip(strides)
            .try_fold(0usize, |last, (&dim, stride)| {
                (dim - 1).checked_mul(stride)?.checked_add(last)
            })
            .and_then(|last| last.checked_add(1))
            .filter(|&span| span <= MOST_ELEMENTS)
            .ok_or_else(|| {
                Error::operand(
                    format!("{name}'s strides"),
                    "a span that fits the address space",
                    format!("{strides:?} for {dims:?}"),
                )
            })
    }

    /// Whether two elements of a tensor of `dims` share a place (as a stride of 0 does), which an output mustn't.
    pub(crate) fn overlaps(self, dims: [usize; 4]) -> bool {
        if dims.contains(&0) {
            return false;
        }
        let mut axes: Vec<_> =
            dims.into_iter().zip(self.to_array()).filter(|(dim, _)| *dim > 1).collect();
        axes.sort_by_key(|&(_, stride)| stride);
        // Sufficient and simple: each axis steps over everything that the smaller ones span.
        let mut span = 1usize;
        for (dim, stride) in axes {
            if stride < span {
                return true;
            }
            span = span.saturating_add(stride.saturating_mul(dim - 1));
        }
        false
    }
}

/// How many quantized rows stand together behind their scales: so the rows begin at multiples of 16 bytes, where they are
/// multiples of that long.
const ROWS_TOGETHER: usize = 4;

/// What kernels count a tensor by: elements, or quantized rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Indexing {
    /// `[batch, heads, rows, elements of a row]`
    pub(crate) dims: [usize; 4],
    pub(crate) strides: Strides,
    /// Bytes of each.
    pub(crate) size: usize,
    /// How many stand together, a power of two: a tensor has a multiple of that.
    pub(crate) together: usize,
}

impl Indexing {
    /// Of a tensor with these dims and strides in elements.
    pub(crate) fn new(dtype: Dtype, dims: [usize; 4], strides: Strides) -> Self {
        if !dtype.is_quantized() {
            return Self { dims, strides, size: dtype.size(), together: 1 };
        }
        let [batch, heads, rows, row] = dims;
        let of_rows = |stride: usize| stride / row.max(1);
        Self {
            dims: [batch, heads, rows, 1],
            strides: Strides {
                batch: of_rows(strides.batch),
                head: of_rows(strides.head),
                seq: of_rows(strides.seq),
                dim: 1,
            },
            size: row,
            together: ROWS_TOGETHER,
        }
    }

    /// The bytes of the tensor.
    ///
    /// # Errors
    /// Where they are more than fit the address space.
    pub(crate) fn bytes(&self, name: &str) -> Result<usize> {
        let span = self.strides.span(name, self.dims)?.next_multiple_of(self.together);
        elements(name, &[span, self.size])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_without_elements_overlaps_nowhere() {
        let dims = [2, 6, 0, 32];
        assert!(!Layout::Bhsd.strides(dims).overlaps(dims));
        let dims = [2, 6, 3, 32];
        assert!(!Layout::Bhsd.strides(dims).overlaps(dims));
        assert!(Strides { batch: 0, ..Layout::Bhsd.strides(dims) }.overlaps(dims));
    }
}
