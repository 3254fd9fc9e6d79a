// Flash attention on matrix units: both products by cooperative matrices of f16, summed in f32, which a subgroup
// multiplies together (VK_KHR_cooperative_matrix; FlashAttention-2, arXiv 2307.08691, algorithm 1).
//
//   q_tile = q
//   for each tile of keys that the mask doesn't empty:
//       s_tile = q_tile k_tile^T            a strip of MATRIX rows per subgroup and turn
//       s      = s_tile                     four rows and KEYS keys per invocation; masked; m' = max(m, max s)
//       p_tile = 2^((s - m') c)             rounded to f16; l adds up what was rounded
//       o      = o 2^((m - m') c)           in registers, f32
//       for BLOCK_KV components of v at a time:
//           s_tile = p_tile v_tile^T        strips again
//           o      = o + s_tile
//   o = o / l,  lse = ln l + m scale
//
// What lies where in a cooperative matrix is the device's affair, so that what is done by rows (softmax, rescaling)
// passes through workgroup memory, and o isn't kept in matrices. How large subgroups are doesn't matter: they take the
// strips in turns. Invocations have rows, keys and components as in cells.wgsl.
//
// Workgroup memory: a phase writes only after a barrier that follows the last read of what it overwrites. `q_tile` is
// written once, before a tile's first barrier; `kv_tile` holds k from the first to the third, v behind the barrier that
// follows the weights; `s_tile` is written by subgroups and read by invocations, with a barrier before each. `p_tile` is
// written by rows and read by strips, between them the barrier that clears of marks; `nonfinite_rows` is cleared before that
// barrier, added to after it, read after the last product. What lies between rows for the banks' sake is never read.
//
// Left, Right and Sum are the types of the matrices: MATRIX x MATRIX.

// needs bindings: params
// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs common/query_block: QueryBlock, is_empty, kv_tile_class, query_block
// needs constants: BLOCK_KV, BLOCK_Q, HEAD_DIM, HEAD_DIM_V, MATRIX, THREADS_PER_ROW
// needs mask/algebra: PARTIAL, SKIP
// needs rows/: load_k4, load_q4, load_v4
// needs segments/one: first_segment, is_last_segment, next_segment
// needs sequences/: kv_place, q_place
// needs tile/rows: CELL_ROW, INVOCATIONS, nonfinite_rows
// needs tile/softmax: KEYS, OUTPUTS, V4, finish_rows, keeps_some_of, rows_maximum, score_tile, weigh_tile
// needs tile/turns: is_turn, turns
// offers cells, forward, tile_key

const Q4: u32 = HEAD_DIM / 4u;
const KV4: u32 = BLOCK_KV / 4u;
const STRIPS: u32 = BLOCK_Q / MATRIX;
// Matrices in a strip.
const WIDTH: u32 = BLOCK_KV / MATRIX;
// Vectors from one row to the next: 16 bytes more than they hold, for the banks' sake.
const Q_ROW: u32 = Q4 + 2u;
const V_ROW: u32 = KV4 + 2u;
const S_ROW: u32 = KV4 + 1u;
const KV_TILE: u32 = max(BLOCK_KV * Q_ROW, HEAD_DIM_V * V_ROW);

// [BLOCK_Q, HEAD_DIM]
var<workgroup> q_tile: array<vec4<f16>, BLOCK_Q * Q_ROW>;
// k: [BLOCK_KV, HEAD_DIM]; or v, transposed: [HEAD_DIM_V, BLOCK_KV]
var<workgroup> kv_tile: array<vec4<f16>, KV_TILE>;
// [BLOCK_Q, BLOCK_KV]
var<workgroup> p_tile: array<vec4<f16>, BLOCK_Q * V_ROW>;
// [BLOCK_Q, BLOCK_KV]: scores, or as many components of what is added to o
var<workgroup> s_tile: array<vec4<f32>, BLOCK_Q * S_ROW>;
// [THREADS_PER_ROW, CELL_ROW], of four rows each
var<workgroup> cells: array<vec4<f32>, THREADS_PER_ROW * CELL_ROW>;
fn tile_key(x: u32, i: u32) -> u32 {
    return x * 4u + i;
}

@compute @workgroup_size(INVOCATIONS)
fn forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    // Matrices are multiplied in uniform control flow, of which a return would be the end: a workgroup with nothing to
    // do visits no keys and writes no rows.
    let index = linear_workgroup(workgroup, workgroups);
    var block = query_block(min(index, params.end_workgroup - 1u));
    let is_idle = index >= params.end_workgroup || is_empty(block);
    if (is_idle) {
        block.q_len = 0u;
        block.hull = vec2<u32>(0u);
    }
    let b = block.b;

    for (var i = 0u; i < turns(BLOCK_Q * Q4); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, BLOCK_Q * Q4) && !is_idle) {
            let place = q_place(b, min(block.q0 + at / Q4, block.q_len - 1u));
            let value = load_q4(place.x, block.h, place.y, at % Q4 * 4u) * params.scale_sign;
            q_tile[at / Q4 * Q_ROW + at % Q4] = vec4<f16>(value);
        }
    }

    var keys = first_segment(block.hull);
    loop {
        attend(block, keys, invocation, subgroup, subgroups);
        if (is_last_segment(keys, block.hull)) {
            break;
        }
        keys = next_segment(keys, block.hull);
    }
}

// The block's rows over one segment of the keys.
fn attend(block: QueryBlock, keys: vec2<u32>, invocation: u32, subgroup: u32, subgroups: u32) {
    let b = block.b;
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;

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

        workgroupBarrier();
        for (var i = 0u; i < turns(BLOCK_KV * Q4); i += 1u) {
            let at = i * INVOCATIONS + invocation;
            if (is_turn(at, BLOCK_KV * Q4)) {
                let place = kv_place(b, min(kv0 + at / Q4, kv_last));
                let value = load_k4(place.x, block.h_kv, place.y, at % Q4 * 4u);
                kv_tile[at / Q4 * Q_ROW + at % Q4] = vec4<f16>(value);
            }
        }
        workgroupBarrier();
        for (var strip = subgroup; strip < STRIPS; strip += subgroups) {
            var sums: array<Sum, WIDTH>;
            for (var i = 0u; i < WIDTH; i += 1u) {
                sums[i] = Sum();
            }
            for (var d = 0u; d < HEAD_DIM; d += MATRIX) {
                let rows = coopLoadT<Left>(&q_tile[strip * MATRIX * Q_ROW + d / 4u], Q_ROW);
                for (var i = 0u; i < WIDTH; i += 1u) {
                    let key_matrix = coopLoad<Right>(&kv_tile[i * MATRIX * Q_ROW + d / 4u], Q_ROW);
                    sums[i] = coopMultiplyAdd(rows, key_matrix, sums[i]);
                }
            }
            for (var i = 0u; i < WIDTH; i += 1u) {
                let sum = sums[i];
                coopStoreT(sum, &s_tile[strip * MATRIX * S_ROW + i * MATRIX / 4u], S_ROW);
            }
        }
        workgroupBarrier();

        // s[i]: the four rows' scores of key 4 x + i.
        let s_at = y * 4u * S_ROW + x;
        let across = transpose(mat4x4<f32>(
            s_tile[s_at],
            s_tile[s_at + S_ROW],
            s_tile[s_at + 2u * S_ROW],
            s_tile[s_at + 3u * S_ROW],
        ));
        var s = array<vec4<f32>, KEYS>(across[0], across[1], across[2], across[3]);
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
        weigh_tile(m, kind, kept, invocation, &s);
        let weights = transpose(mat4x4<f32>(s[0], s[1], s[2], s[3]));
        l += vec4<f32>(
            store_weights(y * 4u, x, weights[0]),
            store_weights(y * 4u + 1u, x, weights[1]),
            store_weights(y * 4u + 2u, x, weights[2]),
            store_weights(y * 4u + 3u, x, weights[3]),
        );
        // The tile is cleared of marks before values make new ones.
        workgroupBarrier();
        for (var i = 0u; i < turns(KV4 * V4); i += 1u) {
            let at = i * INVOCATIONS + invocation;
            if (is_turn(at, KV4 * V4)) {
                // Four keys' four components.
                let j = at / V4 * 4u;
                let d = at % V4 * 4u;
                let turned = transpose(mat4x4<f32>(
                    value_to_stage(block, kv0, kind, j, d),
                    value_to_stage(block, kv0, kind, j + 1u, d),
                    value_to_stage(block, kv0, kind, j + 2u, d),
                    value_to_stage(block, kv0, kind, j + 3u, d),
                ));
                let to = d * V_ROW + j / 4u;
                kv_tile[to] = vec4<f16>(turned[0]);
                kv_tile[to + V_ROW] = vec4<f16>(turned[1]);
                kv_tile[to + 2u * V_ROW] = vec4<f16>(turned[2]);
                kv_tile[to + 3u * V_ROW] = vec4<f16>(turned[3]);
            }
        }
        for (var c = 0u; c < OUTPUTS; c += 1u) {
            workgroupBarrier();
            for (var strip = subgroup; strip < STRIPS; strip += subgroups) {
                var sums: array<Sum, WIDTH>;
                for (var i = 0u; i < WIDTH; i += 1u) {
                    sums[i] = Sum();
                }
                for (var j = 0u; j < BLOCK_KV; j += MATRIX) {
                    let weights = coopLoadT<Left>(&p_tile[strip * MATRIX * V_ROW + j / 4u], V_ROW);
                    for (var i = 0u; i < WIDTH; i += 1u) {
                        let values = coopLoad<Right>(&kv_tile[(c * BLOCK_KV + i * MATRIX) * V_ROW + j / 4u], V_ROW);
                        sums[i] = coopMultiplyAdd(weights, values, sums[i]);
                    }
                }
                for (var i = 0u; i < WIDTH; i += 1u) {
                    let sum = sums[i];
                    coopStoreT(sum, &s_tile[strip * MATRIX * S_ROW + i * MATRIX / 4u], S_ROW);
                }
            }
            workgroupBarrier();
            // Not o_rows[r][c]: a compiler that doesn't unroll the loop over c would put the sums into memory.
            for (var i = 0u; i < OUTPUTS; i += 1u) {
                if (i == c) {
                    o_rows[0][i] += s_tile[s_at];
                    o_rows[1][i] += s_tile[s_at + S_ROW];
                    o_rows[2][i] += s_tile[s_at + 2u * S_ROW];
                    o_rows[3][i] += s_tile[s_at + 3u * S_ROW];
                }
            }
        }
        if (kind == PARTIAL) {
            keeps_nonfinite |= keeps_some_of(atomicLoad(&nonfinite_rows[0]), kept, x);
        }
    }
    finish_rows(block, keys, y, x, invocation, m, l, keeps_nonfinite, &o_rows);
}

// Four weights of a row, rounded; gives the sum of what was stored.
fn store_weights(row: u32, x: u32, weights: vec4<f32>) -> f32 {
    let p = vec4<f16>(weights);
    p_tile[row * V_ROW + x] = p;
    let rounded = vec4<f32>(p);
    return (rounded.x + rounded.y) + (rounded.z + rounded.w);
}

// Key j of the tile's components d .. d + 3 of v. In PARTIAL tiles what isn't finite counts as 0 and is noted.
fn value_to_stage(block: QueryBlock, kv0: u32, kind: u32, j: u32, d: u32) -> vec4<f32> {
    let place = kv_place(block.b, min(kv0 + j, block.kv_len - 1u));
    let value = load_v4(place.x, block.h_kv, place.y, d);
    if (kind == PARTIAL) {
        if (any(is_nonfinite(value))) {
            atomicOr(&nonfinite_rows[0], 1u << j);
            return without_nonfinite(value);
        }
    }
    return value;
}
