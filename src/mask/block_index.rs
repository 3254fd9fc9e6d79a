//! How the lists of `block_sparse` are picked: by what, and what they are on the host.

use crate::error::{Error, Result};
use crate::tensor::shape::Shape;

/// The most blocks that a list may have.
pub const MAX_LISTED_BLOCKS: usize = 512;

/// How the lists of [`crate::Mask::block_sparse`] are picked from q and k (Native Sparse Attention, arXiv 2502.11089, §3.3.2;
/// MoBA, arXiv 2502.13189): the keys of each block are pooled into one, the queries of each block into their mean, and a
/// block of queries lists the `k` blocks of keys whose pooled keys have the largest products with its pooled query.
///
/// Products are taken in the sign of the problem's scale. Of equal ones the lower block comes first, what isn't a number comes
/// last. Blocks are counted from each sequence's own first token, and a sequence's last block may have fewer.
///
/// ```
/// use wgpu_attention::{Mask, Shape};
/// use wgpu_attention::mask::BlockIndexOptions;
/// let options = BlockIndexOptions::new(64, 16).causal(true).keep_first(true).keep_own(true);
/// assert_eq!(options.dims(&Shape::new(1, 8, 4096, 128).num_kv_heads(2)), [1, 8, 64, 16]);
/// let mask = Mask::causal() & Mask::block_sparse(64);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BlockIndexOptions {
    /// Queries and keys in a block, as [`crate::Mask::block_sparse`] has it.
    pub block: usize,
    /// Blocks of a list, at most [`MAX_LISTED_BLOCKS`]: −1 stands for those that there aren't.
    pub k: usize,
    /// How a block's keys become one.
    pub pooling: BlockPooling,
    /// Whether the query heads that share keys share a list, by the sum of their pooled queries.
    pub share_group: bool,
    /// Whether block 0 is listed whatever its product is.
    pub keep_first: bool,
    /// Whether the block of the queries' own positions is listed whatever its product is: two blocks, where the positions of
    /// a block of queries fall into two.
    pub keep_own: bool,
    /// Whether no block is listed that begins behind the last position of a block of queries.
    pub causal: bool,
}

/// How the keys of a block become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum BlockPooling {
    /// Their mean (MoBA).
    #[default]
    Mean,
    /// The largest of each component.
    Max,
}

/// The lists of [`crate::Mask::block_sparse`], for [`crate::AuxData::block_indices`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockIndices {
    /// `[batch, num_heads|num_kv_heads, blocks of queries, blocks of a list]`
    pub dims: [usize; 4],
    /// The elements: in each list blocks of keys from the lowest to the highest, then −1.
    pub blocks: Vec<i32>,
}

impl Default for BlockIndexOptions {
    /// Lists of 16 blocks of 64.
    fn default() -> Self {
        Self::new(64, 16)
    }
}

impl BlockIndexOptions {
    /// Lists of `k` blocks of `block` queries and keys, by the mean of the keys, for each query head, wherever the blocks are.
    pub const fn new(block: usize, k: usize) -> Self {
        Self {
            block,
            k,
            pooling: BlockPooling::Mean,
            share_group: false,
            keep_first: false,
            keep_own: false,
            causal: false,
        }
    }

    setters! {
        const block: usize,
        const k: usize,
        const pooling: BlockPooling,
        const share_group: bool,
        const keep_first: bool,
        const keep_own: bool,
        const causal: bool,
    }

    /// The sizes of `block_indices`, `[batch, num_heads|num_kv_heads, blocks of queries, k]`.
    pub const fn dims(&self, shape: &Shape) -> [usize; 4] {
        let heads = if self.share_group { shape.num_kv_heads } else { shape.num_heads };
        let block = if self.block == 0 { 1 } else { self.block };
        [shape.batch, heads, shape.seq_len_q.div_ceil(block), self.k]
    }

    /// How many blocks are listed whatever their products are.
    fn listed_always(&self, shape: &Shape) -> usize {
        let distance = shape.seq_len_kv.abs_diff(shape.seq_len_q);
        let aligned = shape.sequences.are_uniform() && distance.is_multiple_of(self.block);
        let own = if aligned || shape.seq_len_q <= 1 || self.block == 1 { 1 } else { 2 };
        usize::from(self.keep_first) + if self.keep_own { own } else { 0 }
    }

    /// # Errors
    /// [`Error::Operand`] that names the option that is out of its range.
    pub(crate) fn check(&self, shape: &Shape) -> Result<()> {
        if self.block == 0 || u32::try_from(self.block).is_err() {
            return Err(Error::operand("block", format!("1 to {}", u32::MAX), self.block));
        }
        if self.k == 0 || self.k > MAX_LISTED_BLOCKS {
            return Err(Error::operand("k", format!("1 to {MAX_LISTED_BLOCKS}"), self.k));
        }
        let least = self.listed_always(shape);
        if self.k < least {
            return Err(Error::operand(
                "k",
                format!("at least the {least} blocks that keep_first and keep_own list always"),
                self.k,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused() {
        let shape = Shape::new(1, 4, 128, 16).num_kv_heads(2).seq_len_kv(130);
        let error = |options: BlockIndexOptions| options.check(&shape).unwrap_err().to_string();
        assert_eq!(error(BlockIndexOptions::new(0, 1)), "block: expected 1 to 4294967295, found 0");
        assert_eq!(error(BlockIndexOptions::new(1, 0)), "k: expected 1 to 512, found 0");
        assert_eq!(error(BlockIndexOptions::new(1, 513)), "k: expected 1 to 512, found 513");
        let all = BlockIndexOptions::new(64, 2).keep_first(true).keep_own(true);
        assert_eq!(
            error(all),
            "k: expected at least the 3 blocks that keep_first and keep_own list always, found 2"
        );
        all.check(&shape.seq_len_kv(128)).unwrap();
        all.k(3).check(&shape).unwrap();
        assert_eq!(all.share_group(true).dims(&shape), [1, 2, 2, 2]);
    }
}
