// A workgroup's tile of scores, and the softmax over it, for kernels whose invocations share rows: invocation (y, x) of
// the BLOCK_Q / 4 x COLUMNS has the rows 4y .. 4y + 3 (the components of its vectors), of the scores the keys
// tile_key(x, i), and of the output the components 4x, 4 (x + COLUMNS), ... m is the same in all invocations of a row;
// l is each invocation's own share, summed at the end.
//
// The kernel declares: fn tile_key(x, i), and in workgroup memory row_tile, [COLUMNS, P_ROW] vectors of four rows at
// least, and nonfinite_keys. A row of row_tile is longer than what it holds, so that neighbours that write a column use
// different banks.

const ROW_GROUPS: u32 = BLOCK_Q / 4u;
const INVOCATIONS: u32 = ROW_GROUPS * COLUMNS;
const KEYS: u32 = BLOCK_KV / COLUMNS;
const V4: u32 = HEAD_DIM_V / 4u;
const OUTPUTS: u32 = V4 / COLUMNS;
const P_ROW: u32 = ROW_GROUPS + 1u;

// From products to scores: modified, and LOWEST where the mask says so. Bit j of the result: some of the four rows
// keeps key j of a PARTIAL tile.
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
        var score = (*s)[i];
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
            kept |= select(0u, 1u << j, any(keep));
        }
        (*s)[i] = score;
    }
    return kept;
}

// The rows' largest scores, from those of their COLUMNS invocations. row_tile may be written after another barrier.
fn rows_maximum(m: vec4<f32>, y: u32, x: u32, s: ptr<function, array<vec4<f32>, KEYS>>) -> vec4<f32> {
    var own = m;
    for (var i = 0u; i < KEYS; i += 1u) {
        own = max(own, (*s)[i]);
    }
    workgroupBarrier();
    row_tile[x * P_ROW + y] = own;
    workgroupBarrier();
    var most = m;
    for (var i = 0u; i < COLUMNS; i += 1u) {
        most = max(most, row_tile[i * P_ROW + y]);
    }
    return most;
}

// From scores to weights. nonfinite_keys is cleared for a PARTIAL tile.
fn weigh_tile(m: vec4<f32>, kind: u32, invocation: u32, s: ptr<function, array<vec4<f32>, KEYS>>) {
    var p: array<vec4<f32>, KEYS>;
    for (var i = 0u; i < KEYS; i += 1u) {
        p[i] = exp2(((*s)[i] - m) * params.softmax_scale_log2);
    }
    if (kind == PARTIAL) {
        for (var i = 0u; i < KEYS; i += 1u) {
            p[i] = select(p[i], vec4<f32>(0.0), (*s)[i] == vec4<f32>(LOWEST));
        }
        if (invocation == 0u) {
            atomicStore(&nonfinite_keys[0], 0u);
        }
    }
    for (var i = 0u; i < KEYS; i += 1u) {
        (*s)[i] = p[i];
    }
}

// Sums the shares of l and of keeps_nonfinite, and writes o and lse.
fn finish_rows(
    block: QueryBlock,
    y: u32,
    x: u32,
    invocation: u32,
    m: vec4<f32>,
    l_share: vec4<f32>,
    keeps_nonfinite: bool,
    o_rows: ptr<function, array<array<vec4<f32>, OUTPUTS>, 4>>,
) {
    let b = block.b;
    let h = block.h;
    workgroupBarrier();
    row_tile[x * P_ROW + y] = l_share;
    if (invocation == 0u) {
        atomicStore(&nonfinite_keys[0], 0u);
    }
    workgroupBarrier();
    if (keeps_nonfinite) {
        atomicOr(&nonfinite_keys[0], 1u);
    }
    var l = vec4<f32>(0.0);
    for (var i = 0u; i < COLUMNS; i += 1u) {
        l += row_tile[i * P_ROW + y];
    }
    workgroupBarrier();
    let add_nonfinite = atomicLoad(&nonfinite_keys[0]) != 0u;

    for (var r = 0u; r < 4u; r += 1u) {
        let row = block.q0 + y * 4u + r;
        if (row < block.q_len) {
            let place = q_place(b, row);
            let end = row_end(h, m[r], l[r]);
            if (x == 0u) {
                lse[lse_index(b, h, row)] = end.lse;
            }
            for (var i = 0u; i < OUTPUTS; i += 1u) {
                store_o4(place.x, h, place.y, (x + i * COLUMNS) * 4u, (*o_rows)[r][i] * end.norm);
            }
            if (add_nonfinite) {
                for (var d = x * 4u; d < params.head_dim_v; d += COLUMNS * 4u) {
                    let value = load_o4(place.x, h, place.y, d) + kept_nonfinite_v4(b, h, row, d, block.hull);
                    store_o4(place.x, h, place.y, d, value);
                }
            }
        }
    }
}
