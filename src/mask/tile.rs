//! What kernels walk over: tiles of queries × keys, and what a mask makes of them.

/// The size of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileGrid {
    /// Queries in a tile.
    pub block_q: usize,
    /// Keys in a tile.
    pub block_kv: usize,
}

/// How kernels over tiles learn what a mask makes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClassedBy {
    /// Closed forms alone.
    ClosedForms,
    /// A map of all tiles, made on the device.
    Map,
    /// Closed forms that read bounds of the mask's data.
    Bounds,
}

/// What a forward kernel does with a tile of queries × keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TileClass {
    /// No cell is kept: the tile isn't visited.
    Skip,
    /// Some cells may be kept and some masked: the mask is asked cell by cell.
    Partial,
    /// Every cell is kept: the mask isn't asked.
    Full,
}

impl TileClass {
    /// The class of a word that a [`crate::plan::TilePlan`] wrote.
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Skip,
            1 => Self::Partial,
            _ => Self::Full,
        }
    }
}
