// Flash decoding (Dao et al. 2023) for GPUs, with no need of subgroups: a workgroup has ROWS packed rows and one split
// of the keys.
//
//   for each tile of BLOCK_KV keys of the split that the mask doesn't empty:
//       s    = q k^T                            THREADS_PER_ROW neighbours share a key, K_RUN vectors each at a time
//       s    = LOWEST where the mask says so    in PARTIAL tiles only
//       m'   = max(m, max s),  p = 2^((s - m') c),  l = l 2^((m - m') c) + p
//       o    = o 2^((m - m') c) + p v           an invocation: V_RUN vectors, every V_GROUPS-th key
//   o and lse, or this split's m, l and o
//
// Every key and value goes from memory to registers once, 16 bytes at a time: K_RUN and V_RUN vectors of four components,
// 1 of f32, 2 of 16 bits each, 4 of 8 bits each. Invocation (y, x) of KEY_SLOTS x THREADS_PER_ROW has the keys y, y + KEY_SLOTS, ...
// and the runs x, x + THREADS_PER_ROW, ... of their products; then the cells invocation, invocation + INVOCATIONS, ... of the
// ROWS x BLOCK_KV scores; then the run invocation % V_COLUMNS of the output.
//
// Workgroup memory: a phase writes only after a barrier that follows the last read of what it overwrites. `products` is
// written before the first barrier of a tile and read before the second; `scores` is written before the second and
// read until the next tile's first; `weights` and `shrinks` are written before the third and read until then, too.

// needs bindings: params
// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs common/nonfinite_sums: scaled
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs constants: BLOCK_KV, COUNTS_RUNS, HEAD_DIM, HEAD_DIM_V, INVOCATIONS, K_RUN, MODIFIED, ROWS, THREADS_PER_ROW, V_RUN
// needs decode/: end_row, end_row4
// needs decode/nonfinite: add_kept_nonfinite
// needs decode/row_block: cell_kept, is_empty, kv_tile_class, last_skipped, packed_row, row_block
// needs generated: modified_score
// needs mask/algebra: PARTIAL, SKIP
// needs rows/: load_q4, run_k4, run_v4
// needs sequences/: kv_place, q_place
// {{DROPOUT}} needs score/dropout: dropout_factor, dropout_row
// offers forward

const KEY_SLOTS: u32 = INVOCATIONS / THREADS_PER_ROW;
const KEYS: u32 = BLOCK_KV / KEY_SLOTS;
const CELLS: u32 = (ROWS * BLOCK_KV + INVOCATIONS - 1u) / INVOCATIONS;
const D4: u32 = HEAD_DIM / 4u;
const V4: u32 = HEAD_DIM_V / 4u;
const V_COLUMNS: u32 = V4 / V_RUN;
const V_GROUPS: u32 = INVOCATIONS / V_COLUMNS;
// The offset keeps the columns of one key in different banks.
const COLUMN_STRIDE: u32 = ROWS * BLOCK_KV + KEY_SLOTS / 4u;

// [ROWS, HEAD_DIM / 4]
var<workgroup> q_tile: array<vec4<f32>, ROWS * D4>;
// [THREADS_PER_ROW, ROWS, BLOCK_KV], shares of the products; at the end [V_GROUPS, HEAD_DIM_V], shares of a row of o
var<workgroup> products: array<f32, max(THREADS_PER_ROW * COLUMN_STRIDE, INVOCATIONS * V_RUN * 4u)>;
// [ROWS, BLOCK_KV]; at the end the cells' shares of l
var<workgroup> scores: array<f32, ROWS * BLOCK_KV>;
// [ROWS, BLOCK_KV]
var<workgroup> weights: array<f32, ROWS * BLOCK_KV>;
// [ROWS]; at the end m
var<workgroup> shrinks: array<f32, ROWS>;
// Not 0: some value of a PARTIAL tile wasn't finite and was left out. 16 bytes, so that drivers see what lies behind it
// as aligned.
var<workgroup> left_out: array<atomic<u32>, 4>;

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
    let block = row_block(index);
    if (is_empty(block)) {
        return;
    }
    let b = block.b;
    let h_kv = block.h_kv;
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;
    let v_group = invocation / V_COLUMNS;
    let v_column = invocation % V_COLUMNS;
    let kv_last = block.kv_len - 1u;
    // Of long rows no more than there are, and in a loop that isn't unrolled: compilers would read all keys before the first
    // multiplication.
    let runs = select(D4 / K_RUN, (params.head_dim + 4u * K_RUN - 1u) / (4u * K_RUN), COUNTS_RUNS);

    for (var at = invocation; at < ROWS * D4; at += INVOCATIONS) {
        let row = packed_row(block, at / D4);
        let place = q_place(b, row.q_idx);
        q_tile[at] = load_q4(place.x, row.h, place.y, at % D4 * 4u) * params.scale_sign;
    }
    if (invocation == 0u) {
        atomicStore(&left_out[0], 0u);
    }
    workgroupBarrier();

    var m: array<f32, CELLS>;
    var l: array<f32, CELLS>;
    for (var i = 0u; i < CELLS; i += 1u) {
        m[i] = LOWEST;
        l[i] = 0.0;
    }
    var o_rows: array<array<vec4<f32>, V_RUN>, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        for (var t = 0u; t < V_RUN; t += 1u) {
            o_rows[r][t] = vec4<f32>(0.0);
        }
    }
    var found_nonfinite = false;

    for (var kv0 = block.keys.x; kv0 < block.keys.y; kv0 += BLOCK_KV) {
        let kind = kv_tile_class(block, kv0);
        if (kind == SKIP) {
            kv0 = last_skipped(block, kv0);
            continue;
        }

        var s: array<array<f32, ROWS>, KEYS>;
        for (var n = 0u; n < KEYS; n += 1u) {
            for (var r = 0u; r < ROWS; r += 1u) {
                s[n][r] = 0.0;
            }
        }
        var places: array<vec2<u32>, KEYS>;
        for (var n = 0u; n < KEYS; n += 1u) {
            places[n] = kv_place(b, min(kv0 + y + n * KEY_SLOTS, kv_last));
        }
        for (var run = x; run < runs; run += THREADS_PER_ROW) {
            var keys: array<array<vec4<f32>, K_RUN>, KEYS>;
            for (var n = 0u; n < KEYS; n += 1u) {
                for (var t = 0u; t < K_RUN; t += 1u) {
                    keys[n][t] = run_k4(places[n].x, h_kv, places[n].y, run, t);
                }
            }
            for (var t = 0u; t < K_RUN; t += 1u) {
                for (var r = 0u; r < ROWS; r += 1u) {
                    let q = q_tile[r * D4 + run * K_RUN + t];
                    for (var n = 0u; n < KEYS; n += 1u) {
                        let key = keys[n][t];
                        s[n][r] = fma(q.w, key.w, fma(q.z, key.z, fma(q.y, key.y, fma(q.x, key.x, s[n][r]))));
                    }
                }
            }
        }
        for (var n = 0u; n < KEYS; n += 1u) {
            for (var r = 0u; r < ROWS; r += 1u) {
                products[x * COLUMN_STRIDE + r * BLOCK_KV + y + n * KEY_SLOTS] = s[n][r];
            }
        }
        workgroupBarrier();

        // Bit i: the cell invocation + i * INVOCATIONS of a PARTIAL tile is kept.
        var kept = 0u;
        for (var i = 0u; i < CELLS; i += 1u) {
            let at = invocation + i * INVOCATIONS;
            if (at >= ROWS * BLOCK_KV) {
                break;
            }
            let kv_idx = kv0 + at % BLOCK_KV;
            var score = 0.0;
            for (var column = 0u; column < THREADS_PER_ROW; column += 1u) {
                score += products[column * COLUMN_STRIDE + at];
            }
            let row = packed_row(block, at / BLOCK_KV);
            if (MODIFIED) {
                score = modified_score(score, b, row.h, row.q_idx, min(kv_idx, kv_last));
            }
            if (kind == PARTIAL) {
                let keep = cell_kept(block, row, kv_idx);
                score = select(LOWEST, score, keep);
                kept |= select(0u, 1u << i, keep);
            }
            scores[at] = score;
        }
        workgroupBarrier();

        for (var i = 0u; i < CELLS; i += 1u) {
            let at = invocation + i * INVOCATIONS;
            if (at < ROWS * BLOCK_KV) {
                let row0 = at / BLOCK_KV * BLOCK_KV;
                var m_new = m[i];
                for (var j = 0u; j < BLOCK_KV; j += 1u) {
                    m_new = max(m_new, scores[row0 + j]);
                }
                let shrink = exp2((m[i] - m_new) * params.softmax_scale_log2);
                var p = exp2((scores[at] - m_new) * params.softmax_scale_log2);
                if (kind == PARTIAL) {
                    p = select(0.0, p, (kept & (1u << i)) != 0u);
                }
                m[i] = m_new;
                l[i] = fma(l[i], shrink, p);
                {{DROPOUT}} let row = packed_row(block, at / BLOCK_KV);
                {{DROPOUT}} p *= dropout_factor(dropout_row(b, row.h, row.q_idx), kv0 + at % BLOCK_KV);
                weights[at] = p;
                if (at == row0) {
                    shrinks[at / BLOCK_KV] = shrink;
                }
            }
        }
        workgroupBarrier();

        for (var r = 0u; r < ROWS; r += 1u) {
            for (var t = 0u; t < V_RUN; t += 1u) {
                o_rows[r][t] *= shrinks[r];
            }
        }
        if (v_group < V_GROUPS) {
            for (var j = v_group; j < BLOCK_KV; j += V_GROUPS) {
                let place = kv_place(b, min(kv0 + j, kv_last));
                var values: array<vec4<f32>, V_RUN>;
                for (var t = 0u; t < V_RUN; t += 1u) {
                    values[t] = run_v4(place.x, h_kv, place.y, v_column, t);
                }
                if (kind == PARTIAL) {
                    for (var t = 0u; t < V_RUN; t += 1u) {
                        found_nonfinite |= any(is_nonfinite(values[t]));
                        values[t] = without_nonfinite(values[t]);
                    }
                }
                for (var r = 0u; r < ROWS; r += 1u) {
                    for (var t = 0u; t < V_RUN; t += 1u) {
                        o_rows[r][t] = fma(vec4<f32>(weights[r * BLOCK_KV + j]), values[t], o_rows[r][t]);
                    }
                }
            }
        }
    }

    // The rows' m and l, and their shares of o from V_GROUPS invocations.
    if (found_nonfinite) {
        atomicOr(&left_out[0], 1u);
    }
    workgroupBarrier();
    for (var i = 0u; i < CELLS; i += 1u) {
        let at = invocation + i * INVOCATIONS;
        if (at < ROWS * BLOCK_KV) {
            scores[at] = l[i];
            if (at % BLOCK_KV == 0u) {
                shrinks[at / BLOCK_KV] = m[i];
            }
        }
    }
    for (var r = 0u; r < ROWS; r += 1u) {
        // Not o_rows[r]: a compiler that doesn't unroll the loop over r would put the sums into memory.
        for (var n = 0u; n < ROWS; n += 1u) {
            if (n == r) {
                for (var t = 0u; t < V_RUN; t += 1u) {
                    let at = (invocation * V_RUN + t) * 4u;
                    products[at] = o_rows[n][t].x;
                    products[at + 1u] = o_rows[n][t].y;
                    products[at + 2u] = o_rows[n][t].z;
                    products[at + 3u] = o_rows[n][t].w;
                }
            }
        }
        workgroupBarrier();
        if (invocation < V4 && block.r0 + r < block.r1) {
            let row = packed_row(block, r);
            var o_row = vec4<f32>(0.0);
            for (var group = 0u; group < V_GROUPS; group += 1u) {
                let at = (group * V4 + invocation) * 4u;
                o_row += vec4<f32>(products[at], products[at + 1u], products[at + 2u], products[at + 3u]);
            }
            found_nonfinite |= any(is_nonfinite(o_row));
            let norm = end_row(block, row, shrinks[r], sum_of_weights(r), invocation == 0u);
            end_row4(block, row, invocation * 4u, scaled(o_row, norm));
        }
        workgroupBarrier();
    }
    found_nonfinite |= atomicLoad(&left_out[0]) != 0u;
    // A loop of its own: what a loop indexes that a compiler doesn't unroll lies in memory.
    if (found_nonfinite && invocation * 4u < params.head_dim_v) {
        for (var r = 0u; block.r0 + r < block.r1; r += 1u) {
            add_kept_nonfinite(block, packed_row(block, r), invocation * 4u, sum_of_weights(r));
        }
    }
}

// From the shares of l that are in `scores` at the end.
fn sum_of_weights(r: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < BLOCK_KV; j += 1u) {
        sum += scores[r * BLOCK_KV + j];
    }
    return sum;
}
