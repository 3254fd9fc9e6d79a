// Tiles staged in workgroup memory, for kernels that need no subgroups: what product.wgsl and sum.wgsl share. Invocation
// (y, x) has, besides its own rows, the other side's rows x, x + THREADS_PER_ROW, ... of the scores, and the components 4x,
// 4 (x + THREADS_PER_ROW), ... of the sums.
//
// Workgroup memory: each phase writes only after a barrier that follows the last read of what it overwrites. `stage` is
// written by all between two barriers of a product or a sum, and read after the second. `cells` is written by each
// invocation for its rows after a product, whose barriers follow the last sum's reads, and read behind the next sum's first
// barrier. `nonfinite_rows` is cleared by the first invocation after the products, added to after that same barrier, and read
// after the sum's last one. Rows are longer than what they hold, so that neighbours that write a column use different banks.

// needs constants: CHUNK, LONGEST_SLICE, OTHER_BLOCK, OWN_BLOCK, STAGED_ROWS
// needs tile/rows: CELL_ROW
// offers CHUNK4, OTHER_ROW, OTHER_START, OWN_ROW, cells, dot4, stage

const CHUNK4: u32 = CHUNK / 4u;
const OWN_ROW: u32 = OWN_BLOCK + 2u;
const OTHER_ROW: u32 = OTHER_BLOCK + 2u;
const OTHER_START: u32 = CHUNK4 * OWN_ROW;
const STAGE: u32 = max(OTHER_START + CHUNK4 * OTHER_ROW, STAGED_ROWS * LONGEST_SLICE / 4u);

// Own side: [CHUNK / 4, OWN_ROW] then other side: [CHUNK / 4, OTHER_ROW]; or the other side: [STAGED_ROWS, row / 4]
var<workgroup> stage: array<vec4<f32>, STAGE>;
// Weights or gradients of scores: [OTHER_BLOCK, CELL_ROW]; or shares of the rows: [THREADS_PER_ROW, CELL_ROW]
var<workgroup> cells: array<vec4<f32>, OTHER_BLOCK * CELL_ROW>;

fn dot4(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
