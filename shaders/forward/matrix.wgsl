// Flash attention on matrix units: both products by cooperative matrices of f16, summed in f32, which a subgroup
// multiplies together (VK_KHR_cooperative_matrix; FlashAttention-2, arXiv 2307.08691, algorithm 1).
//
//   q, o in matrices, a strip of MATRIX rows per subgroup
//   for each tile of keys that the mask doesn't empty:
//       k_tile, v_tile = k, v^T
//       for PART keys of the tile at a time:
//           s = q k^T                       by matrices, to the strip; masked
//           if max s is above m by more than GROWTH in some row that has sums:
//               o = o 2^((m - m') c), l likewise, m = m'
//           p = 2^((s - m) c)               rounded to f16; l adds up what was rounded
//           o = o + p v                     by matrices
//   o = o / l,  lse = ln l + m scale
//
// m needn't be the largest score, only near it: l and o are relative to the same m, and weights stay below 2^GROWTH, which f16
// holds. So o is seldom rescaled (FlashAttention-4's rule). What lies where in a matrix is the device's affair, so that rows of o
// are rescaled and written by way of the strip.
//
// Workgroup memory: k_tile and v_tile are written between two barriers of the workgroup, which follow the last reads. The strips
// belong to one subgroup each, whose barriers order them: `s_strips` is written as matrices, read by lanes behind a barrier, and
// written again behind the one that follows the weights; `p_strips` is written by lanes before that barrier and read as matrices
// behind it. `nonfinite_keys` has two words that PARTIAL tiles use in turns: one is added to while the tile is written and read
// until the next one is; the other is cleared meanwhile. What lies between rows for the banks' sake is never read.
//
// naga holds every branch on a subgroup's number or vote to be divergent, and refuses loads and products of matrices in it, but
// looks into no function: so these stand in functions.
//
// Left, Right and Sum are the types of the matrices: MATRIX x MATRIX.

// needs bindings: params
// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs common/query_block: QueryBlock, cell_kept, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, BLOCK_Q, HEAD_DIM, HEAD_DIM_V, INVOCATIONS, MATRIX, MODIFIED, PART, VECTORS, VOTES
// needs forward/output: add_kept_nonfinite, write_output
// needs generated: modified_score
// needs mask/algebra: PARTIAL, SKIP
// needs matrix/lanes: Lane, lane_of, row_maximum, row_sum
// needs rows/: load_k4, load_q4, load_v4
// needs segments/one: SegmentEnd, await_stats, first_segment, is_last_segment, next_segment, segment_end, segment_stats
// needs sequences/: kv_place, q_place
// needs tile/turns: is_turn, turns
// {{DROPOUT}} needs matrix/dropout: dropped_weights
// {{DROPOUT}} needs score/dropout: dropout_scale
// offers forward

const K4: u32 = HEAD_DIM / 4u;
const V4: u32 = HEAD_DIM_V / 4u;
const KV4: u32 = BLOCK_KV / 4u;
const PART4: u32 = PART / 4u;
// Vectors from one row to the next: 16 bytes more than they hold, for the banks' sake.
const K_ROW: u32 = K4 + 2u;
const V_ROW: u32 = KV4 + 2u;
const S_ROW: u32 = PART4 + 1u;
const P_ROW: u32 = PART4 + 2u;
// In powers of two.
const GROWTH: f32 = 8.0;

// k: [BLOCK_KV, HEAD_DIM]; before that q, as many rows at a time
var<workgroup> k_tile: array<vec4<f16>, BLOCK_KV * K_ROW>;
// v, transposed: [HEAD_DIM_V, BLOCK_KV]
var<workgroup> v_tile: array<vec4<f16>, HEAD_DIM_V * V_ROW>;
// [BLOCK_Q, PART]: scores; or MATRIX components of o
var<workgroup> s_strips: array<vec4<f32>, BLOCK_Q * S_ROW>;
// [BLOCK_Q, PART]: weights
var<workgroup> p_strips: array<vec4<f16>, BLOCK_Q * P_ROW>;
// Bit j: key j of the tile has a value that isn't finite.
var<workgroup> nonfinite_keys: array<atomic<u32>, 4>;

@compute @workgroup_size(INVOCATIONS)
fn forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) subgroup_invocation: u32,
    @builtin(subgroup_size) subgroup_size: u32,
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
    let lane = lane_of(subgroup, subgroup_invocation, subgroup_size);
    if (invocation == 0u) {
        atomicStore(&nonfinite_keys[0], 0u);
        atomicStore(&nonfinite_keys[1], 0u);
    }
    var noted = 0u;

    var q_{{INNER}}: Left;
    for (var first = 0u; first < BLOCK_Q && !is_idle; first += BLOCK_KV) {
        workgroupBarrier();
        stage_queries(block, first, invocation);
        workgroupBarrier();
        let row = lane.strip * MATRIX;
        if (lane.has_strip && row >= first && row < first + BLOCK_KV) {
            q_{{INNER}} = query_matrix(row - first, {{INNER}}u);
        }
    }

    var keys = first_segment(block.hull);
    loop {
        var m = LOWEST;
        // The lane's share.
        var l = 0.0;
        var o_{{OUTPUT}} = Sum();
        var keeps_nonfinite = false;

        for (var kv0 = keys.x / BLOCK_KV * BLOCK_KV; kv0 < keys.y; kv0 += BLOCK_KV) {
            let kind = kv_tile_class(block, kv0);
            if (kind == SKIP) {
                kv0 = last_skipped(block, kv0);
                continue;
            }
            workgroupBarrier();
            stage_keys(block, kv0, invocation);
            stage_values(block, kv0, kind, noted, invocation);
            workgroupBarrier();
            var nonfinite = 0u;
            if (kind == PARTIAL) {
                nonfinite = atomicLoad(&nonfinite_keys[noted]);
                noted = 1u - noted;
                if (invocation == 0u) {
                    atomicStore(&nonfinite_keys[noted], 0u);
                }
            }
            if (!lane.has_strip) {
                continue;
            }
            for (var part = 0u; part < BLOCK_KV; part += PART) {
                for (var j = 0u; j < PART; j += MATRIX) {
                    var scores = Sum();
                    scores = plus_product(q_{{INNER}}, key_matrix(part + j, {{INNER}}u), scores);
                    store_in_strip(scores, lane, j);
                }
                subgroupBarrier();

                var kept = 0u;
                if (MODIFIED || kind == PARTIAL) {
                    kept = score_part(block, kv0 + part, kind, lane);
                }
                var s: array<vec4<f32>, VECTORS>;
                var most = m;
                for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                    s[i] = s_strips[lane.row * S_ROW + i * lane.lanes + lane.x];
                    most = max(most, max(max(s[i].x, s[i].y), max(s[i].z, s[i].w)));
                }
                most = row_maximum(most, lane.lanes);
                let grows = (most - m) * params.softmax_scale_log2 > GROWTH;
                let has_sums = l != 0.0;
                let shrink = select(1.0, exp2((m - most) * params.softmax_scale_log2), grows);
                m = select(m, most, grows);
                l *= shrink;
                if (!VOTES || subgroupAny(grows && has_sums)) {
                    o_{{OUTPUT}} = rescaled(o_{{OUTPUT}}, lane, shrink);
                }

                var sum = 0.0;
                for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                    let column = i * lane.lanes + lane.x;
                    var p = exp2((s[i] - m) * params.softmax_scale_log2);
                    if (kind == PARTIAL) {
                        p = select(vec4<f32>(0.0), p, key_bits(kept, i) != vec4<u32>(0u));
                    }
                    let stored = vec4<f16>(p);
                    p_strips[lane.row * P_ROW + column] = stored;
                    {{DROPOUT}} p_strips[lane.row * P_ROW + column] = dropped_weights(stored, block, kv0 + part + column * 4u, lane);
                    let rounded = vec4<f32>(stored);
                    sum += (rounded.x + rounded.y) + (rounded.z + rounded.w);
                }
                l += sum;
                if (kind == PARTIAL) {
                    keeps_nonfinite |= keeps_some_of(nonfinite >> part, kept, lane);
                }
                subgroupBarrier();
                for (var j = 0u; j < PART; j += MATRIX) {
                    let weights = weight_matrix(lane, j);
                    o_{{OUTPUT}} = plus_product(weights, value_matrix({{OUTPUT}}u, part + j), o_{{OUTPUT}});
                }
            }
        }

        await_stats();
        if (lane.has_strip) {
            let row = block.q0 + lane.row;
            let row_l = row_sum(l, lane.lanes);
            var has_nonfinite = subgroupAny(keeps_nonfinite);
            var before: vec2<f32>;
            if (row < block.q_len) {
                before = segment_stats(block, keys, row);
            }
            // The row's lanes have read these before one of them writes new ones.
            subgroupBarrier();
            var place: vec2<u32>;
            var end: SegmentEnd;
            if (row < block.q_len) {
                place = q_place(block.b, row);
                end = segment_end(block, keys, row, m, row_l, before, lane.x == 0u);
                {{DROPOUT}} end.norm *= dropout_scale();
            }
            has_nonfinite |= finish_columns(block, keys, lane, place, {{OUTPUT}}u * MATRIX, end, o_{{OUTPUT}});
            if (has_nonfinite && row < block.q_len) {
                finish_nonfinite(block, keys, lane, place, end.l);
            }
        }
        if (is_last_segment(keys, block.hull)) {
            break;
        }
        keys = next_segment(keys, block.hull);
    }
}

// Rows [first, first + BLOCK_KV) of the workgroup's queries, where k will lie.
fn stage_queries(block: QueryBlock, first: u32, invocation: u32) {
    for (var i = 0u; i < turns(BLOCK_KV * K4); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, BLOCK_KV * K4)) {
            let place = q_place(block.b, min(block.q0 + first + at / K4, block.q_len - 1u));
            let value = load_q4(place.x, block.h, place.y, at % K4 * 4u) * params.scale_sign;
            k_tile[at / K4 * K_ROW + at % K4] = vec4<f16>(value);
        }
    }
}

fn stage_keys(block: QueryBlock, kv0: u32, invocation: u32) {
    for (var i = 0u; i < turns(BLOCK_KV * K4); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, BLOCK_KV * K4)) {
            let place = kv_place(block.b, min(kv0 + at / K4, block.kv_len - 1u));
            k_tile[at / K4 * K_ROW + at % K4] = vec4<f16>(load_k4(place.x, block.h_kv, place.y, at % K4 * 4u));
        }
    }
}

// Four keys' four components at a time. Neighbours have neighbouring keys, so that they write to different banks. In PARTIAL
// tiles what isn't finite counts as 0 and is noted.
fn stage_values(block: QueryBlock, kv0: u32, kind: u32, noted: u32, invocation: u32) {
    for (var i = 0u; i < turns(KV4 * V4); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, KV4 * V4)) {
            let j = at % KV4 * 4u;
            let d = at / KV4 * 4u;
            var values = mat4x4<f32>(
                value_to_stage(block, kv0 + j, d),
                value_to_stage(block, kv0 + j + 1u, d),
                value_to_stage(block, kv0 + j + 2u, d),
                value_to_stage(block, kv0 + j + 3u, d),
            );
            if (kind == PARTIAL) {
                for (var r = 0u; r < 4u; r += 1u) {
                    if (any(is_nonfinite(values[r]))) {
                        atomicOr(&nonfinite_keys[noted], 1u << (j + r));
                        values[r] = without_nonfinite(values[r]);
                    }
                }
            }
            let turned = transpose(values);
            let to = d * V_ROW + j / 4u;
            v_tile[to] = vec4<f16>(turned[0]);
            v_tile[to + V_ROW] = vec4<f16>(turned[1]);
            v_tile[to + 2u * V_ROW] = vec4<f16>(turned[2]);
            v_tile[to + 3u * V_ROW] = vec4<f16>(turned[3]);
        }
    }
}

fn value_to_stage(block: QueryBlock, key: u32, d: u32) -> vec4<f32> {
    let place = kv_place(block.b, min(key, block.kv_len - 1u));
    return load_v4(place.x, block.h_kv, place.y, d);
}

fn query_matrix(row: u32, inner: u32) -> Left {
    return coopLoadT<Left>(&k_tile[row * K_ROW + inner * MATRIX / 4u], K_ROW);
}

fn key_matrix(key: u32, inner: u32) -> Right {
    return coopLoad<Right>(&k_tile[key * K_ROW + inner * MATRIX / 4u], K_ROW);
}

fn weight_matrix(lane: Lane, j: u32) -> Left {
    return coopLoadT<Left>(&p_strips[lane.strip * MATRIX * P_ROW + j / 4u], P_ROW);
}

fn value_matrix(output: u32, key: u32) -> Right {
    return coopLoad<Right>(&v_tile[output * MATRIX * V_ROW + key / 4u], V_ROW);
}

fn plus_product(left: Left, right: Right, sum: Sum) -> Sum {
    return coopMultiplyAdd(left, right, sum);
}

fn store_in_strip(sum: Sum, lane: Lane, column: u32) {
    let at = lane.strip * MATRIX * S_ROW + column / 4u;
    coopStoreT(sum, &s_strips[at], S_ROW);
}

// The strip's rows, each times its lanes' factor.
fn rescaled(sum: Sum, lane: Lane, factor: f32) -> Sum {
    subgroupBarrier();
    store_in_strip(sum, lane, 0u);
    subgroupBarrier();
    for (var c = lane.x; c < MATRIX / 4u; c += lane.lanes) {
        s_strips[lane.row * S_ROW + c] *= factor;
    }
    subgroupBarrier();
    return coopLoadT<Sum>(&s_strips[lane.strip * MATRIX * S_ROW], S_ROW);
}

// From products to scores, in the strip: modified, and LOWEST where the mask says so. Bit 4 i + j of the result: the row keeps
// key j of the lane's vector i of a PARTIAL tile.
fn score_part(block: QueryBlock, kv0: u32, kind: u32, lane: Lane) -> u32 {
    let row = block.q0 + lane.row;
    let q_idx = min(row, block.q_len - 1u);
    let kv_last = block.kv_len - 1u;
    var kept = 0u;
    for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
        let column = i * lane.lanes + lane.x;
        let key = kv0 + column * 4u;
        var score = s_strips[lane.row * S_ROW + column];
        if (MODIFIED) {
            score = vec4<f32>(
                modified_score(score.x, block.b, block.h, q_idx, min(key, kv_last)),
                modified_score(score.y, block.b, block.h, q_idx, min(key + 1u, kv_last)),
                modified_score(score.z, block.b, block.h, q_idx, min(key + 2u, kv_last)),
                modified_score(score.w, block.b, block.h, q_idx, min(key + 3u, kv_last)),
            );
        }
        if (kind == PARTIAL) {
            let keep = vec4<bool>(
                cell_kept(block, row, key),
                cell_kept(block, row, key + 1u),
                cell_kept(block, row, key + 2u),
                cell_kept(block, row, key + 3u),
            );
            score = select(vec4<f32>(LOWEST), score, keep);
            let bits = select(vec4<u32>(0u), KEY_BITS, keep);
            kept |= (bits.x | bits.y | bits.z | bits.w) << (i * 4u);
        }
        s_strips[lane.row * S_ROW + column] = score;
    }
    return kept;
}

const KEY_BITS: vec4<u32> = vec4<u32>(1u, 2u, 4u, 8u);
const_assert VECTORS <= 8u;

// Of the lane's vector i, those of its keys that are kept.
fn key_bits(kept: u32, i: u32) -> vec4<u32> {
    return vec4<u32>(kept >> (i * 4u)) & KEY_BITS;
}

// Whether the row keeps one of the keys whose bits are set in `keys`; `kept` is score_part's.
fn keeps_some_of(keys: u32, kept: u32, lane: Lane) -> bool {
    var found = 0u;
    for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
        let column = i * lane.lanes + lane.x;
        found |= (keys >> (column * 4u)) & (kept >> (i * 4u)) & 15u;
    }
    return found != 0u;
}

// Writes MATRIX components of o, from d0 on; whether one of the row's sums isn't finite.
fn finish_columns(
    block: QueryBlock,
    keys: vec2<u32>,
    lane: Lane,
    place: vec2<u32>,
    d0: u32,
    end: SegmentEnd,
    sum: Sum,
) -> bool {
    subgroupBarrier();
    store_in_strip(sum, lane, 0u);
    subgroupBarrier();
    var has_nonfinite = false;
    if (block.q0 + lane.row < block.q_len) {
        for (var c = lane.x; c < MATRIX / 4u; c += lane.lanes) {
            let value = s_strips[lane.row * S_ROW + c];
            has_nonfinite |= write_output(block, keys, place, d0 + c * 4u, value, end);
        }
    }
    return has_nonfinite;
}

// A lane has the components that it wrote.
fn finish_nonfinite(block: QueryBlock, keys: vec2<u32>, lane: Lane, place: vec2<u32>, l: f32) {
    for (var d0 = 0u; d0 < HEAD_DIM_V; d0 += MATRIX) {
        for (var c = lane.x; c < MATRIX / 4u; c += lane.lanes) {
            let d = d0 + c * 4u;
            if (d < params.head_dim_v) {
                add_kept_nonfinite(block, keys, block.q0 + lane.row, place, d, l);
            }
        }
    }
}
