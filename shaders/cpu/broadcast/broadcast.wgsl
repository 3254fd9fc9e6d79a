// For CPU adapters: a subgroup is a vector register, and a lane has ROWS rows of its own. Every load is dear
// there, one value for all lanes most of all, so what meets all of those rows is loaded by one lane each, a row or a piece of
// one, and broadcast to the others.
//
// Code is unrolled for STEP rows that are met, not for the whole tile: else a tile's machine code outgrows a core's
// instruction cache. On the other hand, each time round a loop such drivers merge all that it changes with what it was, by the
// mask of lanes that are on, which counts where it changes whole rows: so more rows are summed up at once, see sums.

// offers STEP

const STEP: u32 = 2u;
