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
// Invocations have rows, keys and components as in row_tile.wgsl.
//
// Workgroup memory: each phase writes only after a barrier that follows the last read of what it overwrites. `stage`
// holds q and k chunks, then v chunks, which all invocations write and, a barrier later, read. `row_tile` holds the maxima
// of the rows, then the weights, then the sums; each invocation writes its columns and reads those of its row after the
// barrier that opens the next phase. `nonfinite_keys` is cleared by the first invocation, a barrier before any other adds
// to it, and read after the barrier behind the last chunk of v. Rows of both tiles are longer than what they hold, so that
// neighbours that write a column use different banks.

const CHUNK4: u32 = CHUNK / 4u;
const Q_ROW: u32 = BLOCK_Q + 2u;
const K_ROW: u32 = BLOCK_KV + 2u;
const K_START: u32 = CHUNK4 * Q_ROW;
const STAGE: u32 = max(K_START + CHUNK4 * K_ROW, V_KEYS * V4);

// q: [CHUNK / 4, Q_ROW] then k: [CHUNK / 4, K_ROW]; or v: [V_KEYS, HEAD_DIM_V / 4]
var<workgroup> stage: array<vec4<f32>, STAGE>;
// [BLOCK_KV, P_ROW], or [COLUMNS, P_ROW], of four rows each
var<workgroup> row_tile: array<vec4<f32>, BLOCK_KV * P_ROW>;
// Bit j of the first: the tile's key j has a value that isn't finite. 16 bytes, so that drivers see what lies behind it
// as aligned.
var<workgroup> nonfinite_keys: array<atomic<u32>, 4>;

fn dot4(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

fn tile_key(x: u32, i: u32) -> u32 {
    return x + i * COLUMNS;
}

@compute @workgroup_size(INVOCATIONS)
fn forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let block = query_block(index);
    if (is_empty(block)) {
        return;
    }
    var keys = first_segment(block.hull);
    loop {
        attend(block, keys, invocation);
        if (is_last_segment(keys, block.hull)) {
            break;
        }
        keys = next_segment(keys, block.hull);
    }
}

// The block's rows over one segment of the keys.
fn attend(block: QueryBlock, keys: vec2<u32>, invocation: u32) {
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

    for (var kv0 = keys.x / BLOCK_KV * BLOCK_KV; kv0 < keys.y; kv0 += BLOCK_KV) {
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
                    let key = stage[K_START + d4 * K_ROW + tile_key(x, i)];
                    s[i] = vec4<f32>(
                        dot4(q0, key, s[i].x),
                        dot4(q1, key, s[i].y),
                        dot4(q2, key, s[i].z),
                        dot4(q3, key, s[i].w),
                    );
                }
            }
        }

        let kept = score_tile(block, kv0, kind, y, x, &s);
        let m_new = rows_maximum(m, y, x, &s);
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
        weigh_tile(m, kind, kept, invocation, &s);
        l += tile_sum(&s);
        for (var i = 0u; i < KEYS; i += 1u) {
            row_tile[tile_key(x, i) * P_ROW + y] = s[i];
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
                            atomicOr(&nonfinite_keys[0], 1u << j);
                        }
                    }
                    stage[at] = value;
                }
            }
            workgroupBarrier();
            for (var j = 0u; j < V_KEYS; j += 1u) {
                let p = row_tile[(j0 + j) * P_ROW + y];
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
            keeps_nonfinite |= keeps_some_of(atomicLoad(&nonfinite_keys[0]), kept, x);
        }
    }

    finish_rows(block, keys, y, x, invocation, m, l, keeps_nonfinite, &o_rows);
}
