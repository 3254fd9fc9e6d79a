// What the tiled backward kernels share. A workgroup has OWN_BLOCK rows of its own side (queries for dq, keys for dk and
// dv) and walks over the other side in tiles of OTHER_BLOCK.
//
// Invocation (y, x) of the 16 x COLUMNS has its own side's rows 4y .. 4y + 3 (the components of its vectors), the other
// side's rows x, x + COLUMNS, ... of the scores, and the components 4x, 4 (x + COLUMNS), ... of the sums.
//
// Workgroup memory: each phase writes only after a barrier that follows the last read of what it overwrites. `stage` is
// written by all between two barriers, in tiled_product.wgsl and tiled_sum.wgsl, and read after the second. `cells` is written
// by each invocation for its rows after a product, whose barriers follow the last sum's reads, and read behind the next
// sum's first barrier. `nonfinite_others` is cleared by the first invocation after the products, added to after that same
// barrier, and read after the sum's last one. Rows are longer than what they hold, so that neighbours that write a column
// use different banks.

const ROW_GROUPS: u32 = OWN_BLOCK / 4u;
const INVOCATIONS: u32 = ROW_GROUPS * COLUMNS;
// Rows of the other side that an invocation has the scores of.
const OTHERS: u32 = OTHER_BLOCK / COLUMNS;
const CHUNK4: u32 = CHUNK / 4u;
const OWN_ROW: u32 = OWN_BLOCK + 2u;
const OTHER_ROW: u32 = OTHER_BLOCK + 2u;
const OTHER_START: u32 = CHUNK4 * OWN_ROW;
const CELL_ROW: u32 = ROW_GROUPS + 1u;
const STAGE: u32 = max(OTHER_START + CHUNK4 * OTHER_ROW, STAGED_ROWS * max(HEAD_DIM, HEAD_DIM_V) / 4u);

// Own side: [CHUNK / 4, OWN_ROW] then other side: [CHUNK / 4, OTHER_ROW]; or the other side: [STAGED_ROWS, row / 4]
var<workgroup> stage: array<vec4<f32>, STAGE>;
// p or ds: [OTHER_BLOCK, CELL_ROW]; or sums of the rows: [COLUMNS, CELL_ROW]
var<workgroup> cells: array<vec4<f32>, OTHER_BLOCK * CELL_ROW>;
// Bit j of the first: the tile's row j of the other side has a number that isn't finite. 16 bytes, so that drivers see what
// lies behind it as aligned.
var<workgroup> nonfinite_others: array<atomic<u32>, 4>;

// Rows [first, ..) of one head; what lies beyond `last` reads as `last`.
struct Rows {
    b: u32,
    h: u32,
    first: u32,
    last: u32,
}

fn dot4(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Whether any invocation says so. `nonfinite_others` is free for this once the last tile is done.
fn any_invocation(flag: bool, invocation: u32) -> bool {
    workgroupBarrier();
    if (invocation == 0u) {
        atomicStore(&nonfinite_others[0], 0u);
    }
    workgroupBarrier();
    if (flag) {
        atomicOr(&nonfinite_others[0], 1u);
    }
    workgroupBarrier();
    return atomicLoad(&nonfinite_others[0]) != 0u;
}
