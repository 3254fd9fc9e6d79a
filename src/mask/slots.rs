//! The first words of a device's mask buffer, which kernels find by their numbers.

use std::sync::Arc;

use crate::auxiliary::AuxTensor;

/// The slots before the leaves': where the tile map lies, the words from one sequence, head and row of tiles to the next (or
/// where bounds of data lie, and of how many words); where ALiBi's slopes lie, and the sinks; then where what sequences are
/// given lies, what was wrong with it, and the lengths that kernels go by; last the words from one sequence's slopes to the
/// next's.
pub(super) const HEADER_SLOTS: usize = 13;

/// The slot that says where ALiBi's slopes lie.
pub(crate) const ALIBI_SLOT: usize = 4;

/// The slot that says how many words lie between the slopes of two sequences: 0 where they have the same.
pub(crate) const ALIBI_STRIDE_SLOT: usize = 12;

/// The slot that says where the sinks lie.
pub(crate) const SINKS_SLOT: usize = 5;

/// The slot that says where `q_starts` or `q_lengths` lie.
pub(crate) const Q_SEQUENCES_SLOT: usize = 6;

/// The slot that says where `kv_starts` or `kv_lengths` lie.
pub(crate) const KV_SEQUENCES_SLOT: usize = 7;

/// The slot that says where `kv_first` lies.
pub(crate) const KV_FIRST_SLOT: usize = 8;

/// The slot that says where `block_tables` lie.
pub(crate) const BLOCK_TABLES_SLOT: usize = 9;

/// The word where `sequences_check` leaves what it found.
pub(crate) const FAULT_SLOT: usize = 10;

/// The slot that says where `sequences_check` writes each sequence's numbers of queries and keys.
pub(crate) const LENGTHS_SLOT: usize = 11;

/// What a slot holds. [`super::emit`] numbers the slots that an expression's nodes list, [`super::layout`] fills the same
/// list with words, so the two can't disagree.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    /// A number; what lies beyond ±2^30 is beyond every position, and is ±2^30.
    Number(i64),
    /// A word as it is.
    Word(u32),
    /// Where a tensor starts.
    Start(AuxTensor),
    /// The words from one index of a tensor's dimension to the next; 0 where its size is 1, so that it is broadcast.
    Stride(AuxTensor, usize),
    /// The size of a tensor's dimension.
    Size(AuxTensor, usize),
    /// Where the flags of a `self_only_if_alone`'s rows start.
    RowFlags,
    /// The flags from one sequence to the next; 0 where all have the same.
    RowFlagsBatch,
    /// The flags from one head to the next; 0 where all have the same.
    RowFlagsHead,
    /// Where the bits of lists of blocks start, of so many keys each: a tensor's lists, its last dimension being a list's.
    BlockBits(AuxTensor, usize),
    /// The words that the bits of one list take.
    BlockBitsWords(usize),
    /// Where the buffer of a user-defined function starts.
    CustomStart(Arc<str>),
    /// Its number of elements.
    CustomLen(usize),
}

impl Slot {
    /// The same for a leaf's data of that number.
    pub(super) fn numbered(self, number: u32) -> Self {
        match self {
            Self::Start(input) => Self::Start(input.numbered(number)),
            Self::Stride(input, dim) => Self::Stride(input.numbered(number), dim),
            Self::Size(input, dim) => Self::Size(input.numbered(number), dim),
            Self::BlockBits(input, block) => Self::BlockBits(input.numbered(number), block),
            Self::Number(_)
            | Self::Word(_)
            | Self::RowFlags
            | Self::RowFlagsBatch
            | Self::RowFlagsHead
            | Self::BlockBitsWords(_)
            | Self::CustomStart(_)
            | Self::CustomLen(_) => self,
        }
    }
}
