// The softmax over a workgroup's tile of scores, for kernels whose invocations share rows as rows.wgsl says: invocation (y, x)
// has of the scores the keys tile_key(x, i), and of the output's slice the components 4x, 4 (x + THREADS_PER_ROW), ... m is the same in all
// invocations of a row; l is each invocation's own share, summed at the end. The kernel declares tile_key.

// needs bindings: params
// needs common/online_softmax: LOWEST
// needs common/query_block: QueryBlock, cell_kept
// needs constants: MODIFIED, O_SLICE, THREADS_PER_ROW
// needs forward/output: add_kept_nonfinite, write_output
// needs forward/tiled: tile_key
// needs generated: modified_score
// needs mask/algebra: PARTIAL
// needs segments/: await_stats, segment_end, segment_stats
// needs sequences/: q_place
// needs tile/rows: CELL_ROW, OTHERS, any_invocation, nonfinite_rows, nth, set_nth, slice_start, sum_of_shares
// needs tile/staged: cells
// offers KEYS, OUTPUTS, finish_rows, keeps_nonfinite_key, rows_maximum, score_tile, tile_sum, weigh_tile

const KEYS: u32 = OTHERS;
const OUTPUTS: u32 = O_SLICE / 4u / THREADS_PER_ROW;
// The bits of four rows; there are at most 8 keys of them.
const ROW_BITS: vec4<u32> = vec4<u32>(1u, 2u, 4u, 8u);
const_assert KEYS <= 8u;

// From products to scores: modified, and LOWEST where the mask says so. Bit 4 i + r of the result: row r keeps key
// tile_key(x, i) of a PARTIAL tile.
fn score_tile(
    block: QueryBlock,
    kv0: u32,
    kind: u32,
    y: u32,
    x: u32,
    s: ptr<function, array<vec4<f32>, KEYS>>,
) -> u32 {
    let row = block.q0 + y * 4u;
    let q_last = block.q_len - 1u;
    var kept = 0u;
    for (var i = 0u; i < KEYS; i += 1u) {
        let j = tile_key(x, i);
        var score = nth(*s, i);
        if (MODIFIED) {
            let kv_idx = min(kv0 + j, block.kv_len - 1u);
            score = vec4<f32>(
                modified_score(score.x, block.b, block.h, min(row, q_last), kv_idx),
                modified_score(score.y, block.b, block.h, min(row + 1u, q_last), kv_idx),
                modified_score(score.z, block.b, block.h, min(row + 2u, q_last), kv_idx),
                modified_score(score.w, block.b, block.h, min(row + 3u, q_last), kv_idx),
            );
        }
        if (kind == PARTIAL) {
            let keep = vec4<bool>(
                cell_kept(block, row, kv0 + j),
                cell_kept(block, row + 1u, kv0 + j),
                cell_kept(block, row + 2u, kv0 + j),
                cell_kept(block, row + 3u, kv0 + j),
            );
            score = select(vec4<f32>(LOWEST), score, keep);
            let bits = select(vec4<u32>(0u), ROW_BITS, keep);
            kept |= (bits.x | bits.y | bits.z | bits.w) << (i * 4u);
        }
        set_nth(s, i, score);
    }
    return kept;
}

// The rows' largest scores, from those of their THREADS_PER_ROW invocations. `cells` may be written after another barrier,
// and was last read before one of those of the products.
fn rows_maximum(m: vec4<f32>, y: u32, x: u32, s: ptr<function, array<vec4<f32>, KEYS>>) -> vec4<f32> {
    var own = m;
    for (var i = 0u; i < KEYS; i += 1u) {
        own = max(own, (*s)[i]);
    }
    cells[x * CELL_ROW + y] = own;
    workgroupBarrier();
    var most = m;
    for (var i = 0u; i < THREADS_PER_ROW; i += 1u) {
        most = max(most, cells[i * CELL_ROW + y]);
    }
    return most;
}

// From scores to weights; `kept` is score_tile's. nonfinite_rows is cleared for a PARTIAL tile.
fn weigh_tile(
    m: vec4<f32>,
    kind: u32,
    kept: u32,
    invocation: u32,
    s: ptr<function, array<vec4<f32>, KEYS>>,
) {
    var p: array<vec4<f32>, KEYS>;
    for (var i = 0u; i < KEYS; i += 1u) {
        p[i] = exp2(((*s)[i] - m) * params.softmax_scale_log2);
    }
    if (kind == PARTIAL) {
        for (var i = 0u; i < KEYS; i += 1u) {
            let bits = vec4<u32>(kept >> (i * 4u)) & ROW_BITS;
            p[i] = select(vec4<f32>(0.0), p[i], bits != vec4<u32>(0u));
        }
        if (invocation == 0u) {
            atomicStore(&nonfinite_rows[0], 0u);
            atomicStore(&nonfinite_rows[1], 0u);
        }
    }
    for (var i = 0u; i < KEYS; i += 1u) {
        (*s)[i] = p[i];
    }
}

// The sum of an invocation's weights of a tile: added to l at once, so that long rows lose fewer digits.
fn tile_sum(s: ptr<function, array<vec4<f32>, KEYS>>) -> vec4<f32> {
    var sum = (*s)[0];
    for (var i = 1u; i < KEYS; i += 1u) {
        sum += (*s)[i];
    }
    return sum;
}

// Whether a row keeps one of the tile's keys whose values were noted as not finite; `kept` is score_tile's.
fn keeps_nonfinite_key(kept: u32, x: u32) -> bool {
    let noted = vec2<u32>(atomicLoad(&nonfinite_rows[0]), atomicLoad(&nonfinite_rows[1]));
    var found = false;
    for (var i = 0u; i < KEYS; i += 1u) {
        let j = tile_key(x, i);
        let rows = (kept >> (i * 4u)) & 15u;
        found |= (rows != 0u) & ((select(noted.x, noted.y, j >= 32u) & (1u << (j % 32u))) != 0u);
    }
    return found;
}

// The end of a segment of the keys: sums the shares of l and of keeps_nonfinite, and writes o and lse, or what the next
// segment goes on with.
fn finish_rows(
    block: QueryBlock,
    keys: vec2<u32>,
    y: u32,
    x: u32,
    invocation: u32,
    m: vec4<f32>,
    l_share: vec4<f32>,
    keeps_nonfinite: bool,
    o_rows: ptr<function, array<array<vec4<f32>, OUTPUTS>, 4>>,
) {
    let row = block.q0 + y * 4u;
    await_stats();
    let before0 = segment_stats(block, keys, row);
    let before1 = segment_stats(block, keys, row + 1u);
    let before2 = segment_stats(block, keys, row + 2u);
    let before3 = segment_stats(block, keys, row + 3u);
    let add_nonfinite = any_invocation(keeps_nonfinite, invocation);
    let l = sum_of_shares(l_share, y, x);
    await_stats();

    // A row at a time and by value: what a loop indexes that a compiler doesn't unroll lies in memory.
    finish_row(block, keys, row, x, m.x, l.x, before0, add_nonfinite, (*o_rows)[0]);
    finish_row(block, keys, row + 1u, x, m.y, l.y, before1, add_nonfinite, (*o_rows)[1]);
    finish_row(block, keys, row + 2u, x, m.z, l.z, before2, add_nonfinite, (*o_rows)[2]);
    finish_row(block, keys, row + 3u, x, m.w, l.w, before3, add_nonfinite, (*o_rows)[3]);
}

// `add_nonfinite`: some row of the workgroup keeps values that aren't finite, which were left out of the sums.
fn finish_row(
    block: QueryBlock,
    keys: vec2<u32>,
    row: u32,
    x: u32,
    m: f32,
    l: f32,
    before: vec2<f32>,
    add_nonfinite: bool,
    o_row: array<vec4<f32>, OUTPUTS>,
) {
    if (row < block.q_len) {
        let place = q_place(block.b, row);
        let start = slice_start(O_SLICE);
        let end = segment_end(block, keys, row, m, l, before, x == 0u);
        var has_nonfinite = add_nonfinite;
        for (var i = 0u; i < OUTPUTS; i += 1u) {
            let d = start + (x + i * THREADS_PER_ROW) * 4u;
            has_nonfinite |= write_output(block, keys, place, d, o_row[i], end);
        }
        if (has_nonfinite) {
            let beyond = min(start + O_SLICE, params.head_dim_v);
            for (var d = start + x * 4u; d < beyond; d += THREADS_PER_ROW * 4u) {
                add_kept_nonfinite(block, keys, row, place, d, end.l);
            }
        }
    }
}
