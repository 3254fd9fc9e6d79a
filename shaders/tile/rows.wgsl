// How invocations share a tile: a workgroup has OWN_BLOCK rows of its own side (queries, or keys for dk and dv) and walks
// over the other side in tiles of OTHER_BLOCK rows. Invocation (y, x) of the ROW_GROUPS x THREADS_PER_ROW has its own side's rows
// 4y .. 4y + 3, the components of its vectors.
//
// A workgroup sums up as many components of its rows as registers hold, a slice of them: all of most rows. Of longer ones there
// is a dispatch for each slice, and the products are the same in all of them.
//
// The kernel declares, in workgroup memory, `cells`, at least [THREADS_PER_ROW, CELL_ROW] vectors of four own rows, and
// `nonfinite_rows`. A row of `cells` is longer than what it holds, so that neighbours that write a column use different
// banks.

// needs bindings: params
// needs constants: OTHER_BLOCK, OWN_BLOCK, SLICED, THREADS_PER_ROW
// needs tile/staged: cells
// offers CELL_ROW, INVOCATIONS, OTHERS, any_invocation, nonfinite_rows, note_nonfinite, nth, set_nth, slice_start, sum_of_shares

const ROW_GROUPS: u32 = OWN_BLOCK / 4u;
const INVOCATIONS: u32 = ROW_GROUPS * THREADS_PER_ROW;
// Rows of the other side that an invocation has the scores of.
const OTHERS: u32 = OTHER_BLOCK / THREADS_PER_ROW;
const CELL_ROW: u32 = ROW_GROUPS + 1u;

// Bit j of the first two: the tile's row j of the other side has a number that isn't finite. 16 bytes, so that drivers see what
// lies behind it as aligned.
var<workgroup> nonfinite_rows: array<atomic<u32>, 4>;

fn note_nonfinite(j: u32) {
    atomicOr(&nonfinite_rows[j / 32u], 1u << (j % 32u));
}

// The first component of the slice, whose length is given.
fn slice_start(length: u32) -> u32 {
    return select(0u, params.slice * length, SLICED);
}

// One of an invocation's vectors. Where the loop that counts `n` has a long body a compiler may not unroll it, and an array that
// it indexed would lie in memory, not in registers; this one is short.
fn nth(vectors: array<vec4<f32>, OTHERS>, n: u32) -> vec4<f32> {
    var vector = vectors[0];
    for (var i = 1u; i < OTHERS; i += 1u) {
        vector = select(vector, vectors[i], i == n);
    }
    return vector;
}

// The same to write one.
fn set_nth(vectors: ptr<function, array<vec4<f32>, OTHERS>>, n: u32, vector: vec4<f32>) {
    for (var i = 0u; i < OTHERS; i += 1u) {
        (*vectors)[i] = select((*vectors)[i], vector, i == n);
    }
}

// Whether any invocation says so. `nonfinite_rows` is free for this once the last tile is done.
fn any_invocation(flag: bool, invocation: u32) -> bool {
    workgroupBarrier();
    if (invocation == 0u) {
        atomicStore(&nonfinite_rows[0], 0u);
    }
    workgroupBarrier();
    if (flag) {
        atomicOr(&nonfinite_rows[0], 1u);
    }
    workgroupBarrier();
    return atomicLoad(&nonfinite_rows[0]) != 0u;
}

// The rows' sums of shares that their THREADS_PER_ROW invocations have. `cells` may be written after another barrier, and was last
// read before one.
fn sum_of_shares(share: vec4<f32>, y: u32, x: u32) -> vec4<f32> {
    cells[x * CELL_ROW + y] = share;
    workgroupBarrier();
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < THREADS_PER_ROW; i += 1u) {
        sum += cells[i * CELL_ROW + y];
    }
    return sum;
}
