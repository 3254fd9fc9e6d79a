//! The first words of a device's mask buffer, which kernels find by their numbers.

/// The slots before the leaves': where the tile map lies, the words from one sequence, head and row of tiles to the next,
/// where ALiBi's slopes lie, and the sinks; then where what sequences are given lies, what was wrong with it, and the
/// lengths that kernels go by.
pub(super) const HEADER_SLOTS: usize = 12;

/// The slot that says where ALiBi's slopes lie.
pub(crate) const ALIBI_SLOT: usize = 4;

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
