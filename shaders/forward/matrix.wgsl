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
// Workgroup memory: k_tile and v_turned are written between two barriers of the workgroup, which follow the last reads.
// `s_strips` is written as matrices, read by lanes behind a barrier of the subgroup, and written again behind the one that follows
// the weights; `p_strips` is written by lanes before that barrier and read as matrices behind it.

// needs bindings: params
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs common/query_block: QueryBlock, cell_kept, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, BLOCK_Q, HEAD_DIM_V, INVOCATIONS, MATRIX, MODIFIED, PART, VECTORS, VOTES
// needs forward/output: add_kept_nonfinite, write_output
// needs generated: modified_score
// needs mask/algebra: PARTIAL, SKIP
// needs mask_tables/: next_visited
// needs matrix/kept: keeps_some_of, kept_bits, kept_vector
// needs matrix/lanes: Lane, lane_of, row_maximum, row_sum
// needs matrix/nonfinite_rows: clear_nonfinite_rows, noted_nonfinite_rows
// needs matrix/rows: k_matrix, own_k_matrix
// needs matrix/stage_blocks: stage_tile_of_v
// needs matrix/stage_rows: stage_k, stage_q
// needs matrix/strips: PART4, P_ROW, S_ROW, p_strips, plus_product, rescaled, s_strips, store_in_strip, strip_matrix
// needs matrix/turned: turned_v_matrix
// needs segments/: SegmentEnd, await_stats, first_segment, is_last_segment, next_segment, segment_end, segment_stats
// needs sequences/: q_place
// needs tile/side: Rows
// {{DROPOUT}} needs matrix/dropout: dropped_weights
// {{DROPOUT}} needs score/dropout: dropout_scale
// offers forward

// In powers of two.
const GROWTH: f32 = 8.0;

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
    clear_nonfinite_rows(invocation);
    var noted = 0u;

    var q_{{INNER}}: Left;
    for (var first = 0u; first < BLOCK_Q && !is_idle; first += BLOCK_KV) {
        workgroupBarrier();
        stage_q(Rows(block.b, block.h, block.q0 + first, block.q_len - 1u), params.scale_sign, invocation);
        workgroupBarrier();
        let row = lane.strip * MATRIX;
        if (lane.has_strip && row >= first && row < first + BLOCK_KV) {
            q_{{INNER}} = own_k_matrix(row - first, {{INNER}}u);
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
            let tile = Rows(block.b, block.h_kv, kv0, block.kv_len - 1u);
            stage_k(tile, 1.0, invocation);
            stage_tile_of_v(tile, kind, noted, invocation);
            workgroupBarrier();
            var nonfinite = 0u;
            if (kind == PARTIAL) {
                nonfinite = noted_nonfinite_rows(noted, invocation);
                noted = 1u - noted;
            }
            if (!lane.has_strip) {
                continue;
            }
            for (var part = 0u; part < BLOCK_KV; part += PART) {
                for (var j = 0u; j < PART; j += MATRIX) {
                    var scores = Sum();
                    scores = plus_product(q_{{INNER}}, k_matrix(part + j, {{INNER}}u), scores);
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
                        p = select(vec4<f32>(0.0), p, kept_vector(kept, i));
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
                    let weights = strip_matrix(lane, j);
                    o_{{OUTPUT}} = plus_product(weights, turned_v_matrix({{OUTPUT}}u, part + j), o_{{OUTPUT}});
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
        {{BOUNDS}} keys = first_segment(vec2<u32>(next_visited(block.b, block.h, block.q0, block.q1, keys.x), block.hull.y));
    }
}

// From products to scores, in the strip: modified, and LOWEST where the mask says so. The result is which keys of a
// PARTIAL tile the row keeps: see matrix/kept.wgsl.
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
            kept |= kept_bits(keep, i);
        }
        s_strips[lane.row * S_ROW + column] = score;
    }
    return kept;
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
