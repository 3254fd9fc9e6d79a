// Which of a PARTIAL tile's rows of the other side have a number that isn't finite.
//
// PARTIAL tiles use two words in turns: one is added to while the tile is written and read until the next one is; the other is
// cleared meanwhile.

// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs constants: OTHER_BLOCK
// needs mask/algebra: PARTIAL
// offers OTHER4, TURNED_ROW, clear_nonfinite_rows, noted_nonfinite_rows, with_nonfinite_noted

// Bit j: row j of the tile. 16 bytes, so that drivers see what lies behind as aligned.
var<workgroup> nonfinite_rows: array<atomic<u32>, 4>;

const OTHER4: u32 = OTHER_BLOCK / 4u;
// Vectors from one component of a transposed tile to the next: 16 bytes more than they hold, for the banks' sake.
const TURNED_ROW: u32 = OTHER4 + 2u;
const_assert OTHER_BLOCK <= 32u;

// Before the barrier that precedes the first tile.
fn clear_nonfinite_rows(invocation: u32) {
    if (invocation == 0u) {
        atomicStore(&nonfinite_rows[0], 0u);
        atomicStore(&nonfinite_rows[1], 0u);
    }
}

// Behind the barrier that follows the writes of a PARTIAL tile; the next one uses the other word.
fn noted_nonfinite_rows(noted: u32, invocation: u32) -> u32 {
    if (invocation == 0u) {
        atomicStore(&nonfinite_rows[1u - noted], 0u);
    }
    return atomicLoad(&nonfinite_rows[noted]);
}

// Four rows of a tile, the first one its row `row`: in a PARTIAL tile without what isn't finite, which is noted.
fn with_nonfinite_noted(rows: mat4x4<f32>, row: u32, kind: u32, noted: u32) -> mat4x4<f32> {
    var values = rows;
    if (kind == PARTIAL) {
        for (var r = 0u; r < 4u; r += 1u) {
            if (any(is_nonfinite(values[r]))) {
                atomicOr(&nonfinite_rows[noted], 1u << (row + r));
                values[r] = without_nonfinite(values[r]);
            }
        }
    }
    return values;
}
