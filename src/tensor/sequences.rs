//! How the sequences of a batch lie in memory: each padded to the same length, packed one behind the other, in a cache
//! at lengths of their own, in a ring, or in blocks.

/// How the queries and the keys of a batch lie in memory; both uniform unless said otherwise.
///
/// With anything else, [`crate::Shape`]'s `seq_len_q` and `seq_len_kv` are the most that a sequence may have, and each
/// sequence's own lengths are data of the problem, found by name ([`crate::AuxTensor`]). Masks count from each
/// sequence's own first query and key, and the last query of a sequence stands at its last key. Rows of o and lse that
/// belong to no sequence aren't written.
///
/// | form | data, i32 | dimensions of the tensors, as `[batch, heads, seq, dim]` |
/// |---|---|---|
/// | uniform | none | `[batch, heads, seq_len, dim]` |
/// | packed | `q_starts`, `kv_starts` `[batch + 1]` | `[1, heads, total, dim]` |
/// | left-padded | `q_lengths` `[batch]` | `[batch, heads, seq_len, dim]` |
/// | cached | `kv_lengths` `[batch]` (and `kv_first` `[batch]`) | `[batch, heads, seq_len_kv, dim]` |
/// | ring | `kv_lengths` `[batch]` | `[batch, heads, seq_len_kv, dim]` |
/// | paged | `kv_lengths` `[batch]`, `block_tables` `[batch, blocks_per_sequence]` | `[blocks, heads, block_size, dim]` |
///
/// FlashAttention's varlen is `Packed` for both with [`crate::Layout::Bshd`]: tensors of `[total, heads, dim]`, `q_starts`
/// and `kv_starts` its `cu_seqlens_q` and `cu_seqlens_k`, and lse `[num_heads, total]`.
///
/// ```
/// use wgpu_attention::Shape;
/// use wgpu_attention::tensor::{KeySequences, QuerySequences, Sequences};
/// let varlen = Shape::new(3, 8, 128, 64) // three sequences of at most 128 tokens, 200 in all
///     .sequences(Sequences {
///         q: QuerySequences::Packed { total: 200 },
///         kv: KeySequences::Packed { total: 200 },
///     });
/// assert_eq!(varlen.q_len().unwrap(), 200 * 8 * 64);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sequences {
    /// The queries, and with them o and lse.
    pub q: QuerySequences,
    /// The keys and values.
    pub kv: KeySequences,
}

/// How the queries of a batch lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum QuerySequences {
    /// `seq_len_q` of each sequence.
    #[default]
    Uniform,
    /// One sequence behind the other without padding: sequence b has the rows `q_starts[b]..q_starts[b + 1]`.
    Packed {
        /// The rows of all sequences together. Plans also take fewer: rows behind the last sequence belong to none, so a
        /// plan with room for a step's most tokens serves every step.
        total: usize,
    },
    /// The last `q_lengths[b]` of each sequence's `seq_len_q` rows; what stands before them is padding.
    LeftPadded,
}

/// How the keys and values of a batch lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeySequences {
    /// `seq_len_kv` of each sequence.
    #[default]
    Uniform,
    /// One sequence behind the other without padding: sequence b has the rows `kv_starts[b]..kv_starts[b + 1]`.
    Packed {
        /// The rows of all sequences together.
        total: usize,
    },
    /// The first `kv_lengths[b]` of each sequence's `seq_len_kv` rows.
    Cached {
        /// The first of them are padding, and the keys start at row `kv_first[b]`.
        left_padded: bool,
    },
    /// The last `seq_len_kv` of the `kv_lengths[b]` keys that there have been: key p lies in row p modulo `seq_len_kv`.
    /// Masks count from the oldest key that is still there.
    Ring,
    /// Blocks of rows anywhere in one pool: key p of sequence b lies in row `p % block_size` of block
    /// `block_tables[b, p / block_size]`. Sequences may share blocks.
    Paged {
        /// The rows of a block, from 1 on; powers of two are found faster.
        block_size: usize,
        /// How many blocks the pool has.
        blocks: usize,
        /// How many entries a sequence has in `block_tables`.
        blocks_per_sequence: usize,
    },
}

/// What of [`Sequences`] a kernel's text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct SequenceForms {
    pub(crate) q: QueryForm,
    pub(crate) kv: KeyForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum QueryForm {
    #[default]
    Uniform,
    Packed,
    LeftPadded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum KeyForm {
    #[default]
    Uniform,
    Packed,
    Cached,
    Ring,
    Paged,
}

impl Sequences {
    pub(crate) const fn forms(&self) -> SequenceForms {
        SequenceForms {
            q: match self.q {
                QuerySequences::Uniform => QueryForm::Uniform,
                QuerySequences::Packed { .. } => QueryForm::Packed,
                QuerySequences::LeftPadded => QueryForm::LeftPadded,
            },
            kv: match self.kv {
                KeySequences::Uniform => KeyForm::Uniform,
                KeySequences::Packed { .. } => KeyForm::Packed,
                KeySequences::Cached { .. } => KeyForm::Cached,
                KeySequences::Ring => KeyForm::Ring,
                KeySequences::Paged { .. } => KeyForm::Paged,
            },
        }
    }

    /// Whether every sequence has the same lengths, known beforehand.
    pub const fn are_uniform(&self) -> bool {
        matches!(self, Self { q: QuerySequences::Uniform, kv: KeySequences::Uniform })
    }
}
