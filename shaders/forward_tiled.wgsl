// Flash attention for GPUs, with no need of subgroups: a workgroup has BLOCK_Q query rows and walks over the keys in
// tiles of BLOCK_KV (FlashAttention-2, arXiv 2307.08691, algorithm 1).
//
//   for each tile of keys that the mask doesn't empty:
//       s    = q k^T                            chunks of CHUNK components staged in workgroup memory
//       s    = LOWEST where the mask says so    in PARTIAL tiles only
//       m'   = max(m, max s)                    over the COLUMNS invocations that share the rows
//       p    = 2^((s - m') c)                   to workgroup memory, keys x rows
//       l, o = l 2^((m - m') c) + sum p, o 2^((m - m') c) + p v    chunks of V_KEYS values staged
//   o = o / l,  lse = ln l + m scale
//
// Invocation (y, x) of the 16 x COLUMNS has the rows 4y .. 4y + 3 (the components of its vectors), the keys
// x, x + COLUMNS, ... of the scores, and the components 4x, 4 (x + COLUMNS), ... of the output. m is the same in all
// invocations of a row; l is each invocation's own share, summed at the end.
//
// Workgroup memory: each phase writes only after a barrier that follows the last read of what it overwrites. `stage`
// holds q and k chunks, then v chunks; `p_tile` holds the maxima of the rows, then the weights, then the sums. Rows of
// both are longer than what they hold, so that neighbours that write a column use different banks.

const ROW_GROUPS: u32 = BLOCK_Q / 4u;
const INVOCATIONS: u32 = ROW_GROUPS * COLUMNS;
const KEYS: u32 = BLOCK_KV / COLUMNS;
const CHUNK4: u32 = CHUNK / 4u;
const V4: u32 = HEAD_DIM_V / 4u;
const OUTPUTS: u32 = V4 / COLUMNS;
const Q_ROW: u32 = BLOCK_Q + 2u;
const K_ROW: u32 = BLOCK_KV + 2u;
const K_START: u32 = CHUNK4 * Q_ROW;
const P_ROW: u32 = ROW_GROUPS + 1u;
const STAGE: u32 = max(K_START + CHUNK4 * K_ROW, V_KEYS * V4);

// q: [CHUNK / 4, Q_ROW] then k: [CHUNK / 4, K_ROW]; or v: [V_KEYS, HEAD_DIM_V / 4]
var<workgroup> stage: array<vec4<f32>, STAGE>;
// [BLOCK_KV, P_ROW], or [COLUMNS, P_ROW], of four rows each
var<workgroup> p_tile: array<vec4<f32>, BLOCK_KV * P_ROW>;
// Bit j: the tile's key j has a value that isn't finite.
var<workgroup> nonfinite_keys: atomic<u32>;

fn dot4(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// How often the workgroup's invocations take one of `count` things each, and whether there is one left for `at`.
fn turns(count: u32) -> u32 {
    return (count + INVOCATIONS - 1u) / INVOCATIONS;
}

fn is_turn(at: u32, count: u32) -> bool {
    return count % INVOCATIONS == 0u || at < count;
}

@compute @workgroup_size(INVOCATIONS)
fn forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= query_block_count()) {
        return;
    }
    let block = query_block(index);
    if (is_empty(block)) {
        return;
    }
    let b = block.b;
    let h = block.h;
    let h_kv = block.h_kv;
    let y = invocation / COLUMNS;
    let x = invocation % COLUMNS;
    let q_last = block.q_len - 1u;

    var m = vec4<f32>(LOWEST);
    var l = vec4<f32>(0.0);
    var o_rows: array<array<vec4<f32>, OUTPUTS>, 4>;
    for (var r = 0u; r < 4u; r += 1u) {
        for (var i = 0u; i < OUTPUTS; i += 1u) {
            o_rows[r][i] = vec4<f32>(0.0);
        }
    }
    var keeps_nonfinite = false;

    for (var kv0 = block.hull.x / BLOCK_KV * BLOCK_KV; kv0 < block.hull.y; kv0 += BLOCK_KV) {
        let kind = kv_tile_class(block, kv0);
        if (kind == SKIP) {
            continue;
        }
        let kv_last = block.kv_len - 1u;

        // s[i]: the four rows' scores of key x + i * COLUMNS.
        var s: array<vec4<f32>, KEYS>;
        for (var i = 0u; i < KEYS; i += 1u) {
            s[i] = vec4<f32>(0.0);
        }
        for (var d0 = 0u; d0 < params.head_dim; d0 += CHUNK) {
            workgroupBarrier();
            for (var i = 0u; i < turns(BLOCK_Q * CHUNK4); i += 1u) {
                let at = i * INVOCATIONS + invocation;
                if (is_turn(at, BLOCK_Q * CHUNK4)) {
                    let place = q_place(b, min(block.q0 + at / CHUNK4, q_last));
                    stage[at % CHUNK4 * Q_ROW + at / CHUNK4] =
                        load_q4(place.x, h, place.y, d0 + at % CHUNK4 * 4u) * params.scale_sign;
                }
            }
            for (var i = 0u; i < turns(BLOCK_KV * CHUNK4); i += 1u) {
                let at = i * INVOCATIONS + invocation;
                if (is_turn(at, BLOCK_KV * CHUNK4)) {
                    let place = kv_place(b, min(kv0 + at / CHUNK4, kv_last));
                    stage[K_START + at % CHUNK4 * K_ROW + at / CHUNK4] =
                        load_k4(place.x, h_kv, place.y, d0 + at % CHUNK4 * 4u);
                }
            }
            workgroupBarrier();
            for (var d4 = 0u; d4 < CHUNK4; d4 += 1u) {
                let q_at = d4 * Q_ROW + y * 4u;
                let q0 = stage[q_at];
                let q1 = stage[q_at + 1u];
                let q2 = stage[q_at + 2u];
                let q3 = stage[q_at + 3u];
                for (var i = 0u; i < KEYS; i += 1u) {
                    let key = stage[K_START + d4 * K_ROW + x + i * COLUMNS];
                    s[i] = vec4<f32>(
                        dot4(q0, key, s[i].x),
                        dot4(q1, key, s[i].y),
                        dot4(q2, key, s[i].z),
                        dot4(q3, key, s[i].w),
                    );
                }
            }
        }

        // Bit j of kept: some of the four rows keeps key j of the tile.
        var kept = 0u;
        var m_own = m;
        for (var i = 0u; i < KEYS; i += 1u) {
            let j = x + i * COLUMNS;
            if (MODIFIED) {
                let row = block.q0 + y * 4u;
                let kv_idx = min(kv0 + j, kv_last);
                s[i] = vec4<f32>(
                    modified_score(s[i].x, b, h, min(row, q_last), kv_idx),
                    modified_score(s[i].y, b, h, min(row + 1u, q_last), kv_idx),
                    modified_score(s[i].z, b, h, min(row + 2u, q_last), kv_idx),
                    modified_score(s[i].w, b, h, min(row + 3u, q_last), kv_idx),
                );
            }
            if (kind == PARTIAL) {
                let row = block.q0 + y * 4u;
                let keep = vec4<bool>(
                    cell_kept(block, row, kv0 + j),
                    cell_kept(block, row + 1u, kv0 + j),
                    cell_kept(block, row + 2u, kv0 + j),
                    cell_kept(block, row + 3u, kv0 + j),
                );
                s[i] = select(vec4<f32>(LOWEST), s[i], keep);
                kept |= select(0u, 1u << j, any(keep));
            }
            m_own = max(m_own, s[i]);
        }

        workgroupBarrier();
        p_tile[x * P_ROW + y] = m_own;
        workgroupBarrier();
        var m_new = m;
        for (var i = 0u; i < COLUMNS; i += 1u) {
            m_new = max(m_new, p_tile[i * P_ROW + y]);
        }
        let shrink = exp2((m - m_new) * params.softmax_scale_log2);
        m = m_new;
        l *= shrink;
        for (var i = 0u; i < OUTPUTS; i += 1u) {
            o_rows[0][i] *= shrink.x;
            o_rows[1][i] *= shrink.y;
            o_rows[2][i] *= shrink.z;
            o_rows[3][i] *= shrink.w;
        }
        workgroupBarrier();
        var p: array<vec4<f32>, KEYS>;
        for (var i = 0u; i < KEYS; i += 1u) {
            p[i] = exp2((s[i] - m_new) * params.softmax_scale_log2);
        }
        if (kind == PARTIAL) {
            for (var i = 0u; i < KEYS; i += 1u) {
                p[i] = select(p[i], vec4<f32>(0.0), s[i] == vec4<f32>(LOWEST));
            }
            if (invocation == 0u) {
                atomicStore(&nonfinite_keys, 0u);
            }
        }
        for (var i = 0u; i < KEYS; i += 1u) {
            l += p[i];
            p_tile[(x + i * COLUMNS) * P_ROW + y] = p[i];
        }

        for (var j0 = 0u; j0 < BLOCK_KV; j0 += V_KEYS) {
            workgroupBarrier();
            for (var i = 0u; i < turns(V_KEYS * V4); i += 1u) {
                let at = i * INVOCATIONS + invocation;
                if (is_turn(at, V_KEYS * V4)) {
                    let j = j0 + at / V4;
                    let place = kv_place(b, min(kv0 + j, kv_last));
                    var value = load_v4(place.x, h_kv, place.y, at % V4 * 4u);
                    if (kind == PARTIAL) {
                        if (any(is_nonfinite(value))) {
                            value = without_nonfinite(value);
                            atomicOr(&nonfinite_keys, 1u << j);
                        }
                    }
                    stage[at] = value;
                }
            }
            workgroupBarrier();
            for (var j = 0u; j < V_KEYS; j += 1u) {
                let p = p_tile[(j0 + j) * P_ROW + y];
                for (var i = 0u; i < OUTPUTS; i += 1u) {
                    let value = stage[j * V4 + x + i * COLUMNS];
                    o_rows[0][i] = fma(vec4<f32>(p.x), value, o_rows[0][i]);
                    o_rows[1][i] = fma(vec4<f32>(p.y), value, o_rows[1][i]);
                    o_rows[2][i] = fma(vec4<f32>(p.z), value, o_rows[2][i]);
                    o_rows[3][i] = fma(vec4<f32>(p.w), value, o_rows[3][i]);
                }
            }
        }
        if (kind == PARTIAL) {
            keeps_nonfinite |= (kept & atomicLoad(&nonfinite_keys)) != 0u;
        }
    }

    // The row's shares of l and of keeps_nonfinite, from its COLUMNS invocations.
    workgroupBarrier();
    p_tile[x * P_ROW + y] = l;
    if (invocation == 0u) {
        atomicStore(&nonfinite_keys, 0u);
    }
    workgroupBarrier();
    if (keeps_nonfinite) {
        atomicOr(&nonfinite_keys, 1u);
    }
    l = vec4<f32>(0.0);
    for (var i = 0u; i < COLUMNS; i += 1u) {
        l += p_tile[i * P_ROW + y];
    }
    workgroupBarrier();
    let add_nonfinite = atomicLoad(&nonfinite_keys) != 0u;

    for (var r = 0u; r < 4u; r += 1u) {
        let row = block.q0 + y * 4u + r;
        if (row < block.q_len) {
            let place = q_place(b, row);
            let end = row_end(h, m[r], l[r]);
            if (x == 0u) {
                lse[lse_index(b, h, row)] = end.lse;
            }
            for (var i = 0u; i < OUTPUTS; i += 1u) {
                store_o4(place.x, h, place.y, (x + i * COLUMNS) * 4u, o_rows[r][i] * end.norm);
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
