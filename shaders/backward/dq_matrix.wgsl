// dq on matrix units: all products by cooperative matrices of f16, summed in f32, which a subgroup multiplies together
// (VK_KHR_cooperative_matrix). A subgroup has a strip of MATRIX queries and walks over the keys.
//
//   q, dout, dq in matrices
//   for each tile of keys that the mask doesn't empty:
//       k_tile, v_tile, k_turned = k, v, k^T
//       for PART keys of the tile at a time:
//           s = q k^T,  dp = dout v^T       by matrices, one after the other by way of the strip
//           p  = exp(s - lse),  ds = p (dp - delta)     0 where the mask says so, in PARTIAL tiles only
//           l  = l + sum p                  each lane's own share; with SUMS_SLOPES that of the slope's gradient, too
//           if some row outgrows its unit:  dq = dq unit' / unit
//           dq = dq + (ds unit) k           ds rounded to f16: see scaled_gradients.wgsl
//   norm = 1 / l,  dq = dq scale norm / unit            see norm.wgsl
//
// Every SEGMENT keys l and dq are folded into what was summed before, where there are more: see segments/folded.wgsl.
//
// Workgroup memory: the tiles are written between two barriers of the workgroup, which follow the last reads. Of the strips, each
// writer waits for the readers of what it overwrites, by the subgroup's barriers.

// needs backward/: norm_of
// needs backward/cell: cell_of
// needs backward/fold_matrix: fold_dq
// needs backward/scaled_gradients: inverse, magnitude, outgrows, row_magnitude, unit_for
// needs bindings: params, row_terms
// needs common/nonfinite_keys: kept_nonfinite_k4
// needs common/problem: linear_workgroup
// needs common/query_block: cell_kept, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, BLOCK_Q, FOLDS, HEAD_DIM, INVOCATIONS, MATRIX, PART, SEGMENT, SUMS_SLOPES, VECTORS, VOTES
// needs mask/algebra: PARTIAL, SKIP
// needs matrix/kept: keeps_some_of, kept_bits
// needs matrix/lanes: lane_of, row_sum
// needs matrix/nonfinite_rows: clear_nonfinite_rows, noted_nonfinite_rows
// needs matrix/rows: k_matrix, own_k_matrix, own_v_matrix, v_matrix
// needs matrix/stage_blocks: stage_tile_of_k
// needs matrix/stage_rows: stage_dout, stage_q, stage_v
// needs matrix/strips: PART4, P_ROW, S_ROW, p_strips, plus_product, rescaled, s_strips, store_in_strip, strip_matrix
// needs matrix/turned: turned_k_matrix
// needs rows/: load_dq4, store_dq4
// needs segments/: follows_keys, precedes_keys
// needs sequences/: q_place
// needs sequences/positions: lse_index, own_position
// needs tile/side: Rows
// offers backward_dq

@compute @workgroup_size(INVOCATIONS)
fn backward_dq(
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
    let b = block.b;
    let h = block.h;
    let lane = lane_of(subgroup, subgroup_invocation, subgroup_size);
    let row = block.q0 + lane.row;
    let q_idx = min(row, max(block.q_len, 1u) - 1u);
    let row_at = lse_index(b, h, q_idx);
    var terms: vec4<f32>;
    if (!is_idle) {
        terms = row_terms[row_at];
    }
    clear_nonfinite_rows(invocation);
    var noted = 0u;

    var q_{{INNER}}: Left;
    var dout_{{OUTPUT}}: Left;
    for (var first = 0u; first < BLOCK_Q && !is_idle; first += BLOCK_KV) {
        let own = Rows(b, h, block.q0 + first, block.q_len - 1u);
        workgroupBarrier();
        stage_q(own, 1.0, invocation);
        stage_dout(own, 1.0, invocation);
        workgroupBarrier();
        let staged = lane.strip * MATRIX;
        if (lane.has_strip && staged >= first && staged < first + BLOCK_KV) {
            q_{{INNER}} = own_k_matrix(staged - first, {{INNER}}u);
            dout_{{OUTPUT}} = own_v_matrix(staged - first, {{OUTPUT}}u);
        }
    }

    // The lane's share.
    var l = 0.0;
    var unit = 0.0;
    var dq_{{INNER}} = Sum();
    var keeps_nonfinite = false;
    var l_before = 0.0;
    var slope = 0.0;
    var slope_before = 0.0;
    var summed_keys = 0u;
    var goes_on = follows_keys();
    // What the windows before have summed is one lane's share.
    if (follows_keys() && lane.x == 0u) {
        l_before = terms.z;
        slope_before = terms.w;
    }
    // The row's norm, which is known at the end.
    terms.z = 1.0;

    for (var kv0 = block.hull.x / BLOCK_KV * BLOCK_KV; kv0 < block.hull.y; kv0 += BLOCK_KV) {
        let kind = kv_tile_class(block, kv0);
        if (kind == SKIP) {
            kv0 = last_skipped(block, kv0);
            continue;
        }
        let kv_last = block.kv_len - 1u;
        let tile = Rows(b, block.h_kv, kv0, kv_last);
        workgroupBarrier();
        stage_tile_of_k(tile, kind, noted, invocation);
        stage_v(tile, 1.0, invocation);
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
            var s: array<vec4<f32>, VECTORS>;
            for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                s[i] = s_strips[lane.row * S_ROW + i * lane.lanes + lane.x];
            }
            // The scores are read before dp overwrites them.
            subgroupBarrier();
            for (var j = 0u; j < PART; j += MATRIX) {
                var weighed = Sum();
                weighed = plus_product(dout_{{OUTPUT}}, v_matrix(part + j, {{OUTPUT}}u), weighed);
                store_in_strip(weighed, lane, j);
            }
            subgroupBarrier();

            var gradients: array<vec4<f32>, VECTORS>;
            var largest = 0u;
            var kept = 0u;
            for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                let column = i * lane.lanes + lane.x;
                let key = kv0 + part + column * 4u;
                let dp = s_strips[lane.row * S_ROW + column];
                let cell0 = cell_of(s[i].x, dp.x, terms, b, h, q_idx, min(key, kv_last));
                let cell1 = cell_of(s[i].y, dp.y, terms, b, h, q_idx, min(key + 1u, kv_last));
                let cell2 = cell_of(s[i].z, dp.z, terms, b, h, q_idx, min(key + 2u, kv_last));
                let cell3 = cell_of(s[i].w, dp.w, terms, b, h, q_idx, min(key + 3u, kv_last));
                var p = vec4<f32>(cell0.p, cell1.p, cell2.p, cell3.p);
                var ds = vec4<f32>(cell0.ds, cell1.ds, cell2.ds, cell3.ds);
                var of_score = vec4<f32>(cell0.dbias, cell1.dbias, cell2.dbias, cell3.dbias);
                if (kind == PARTIAL) {
                    let keep = vec4<bool>(
                        cell_kept(block, row, key),
                        cell_kept(block, row, key + 1u),
                        cell_kept(block, row, key + 2u),
                        cell_kept(block, row, key + 3u),
                    );
                    p = select(vec4<f32>(0.0), p, keep);
                    ds = select(vec4<f32>(0.0), ds, keep);
                    of_score = select(vec4<f32>(0.0), of_score, keep);
                    kept |= kept_bits(keep, i);
                }
                l += (p.x + p.y) + (p.z + p.w);
                if (SUMS_SLOPES) {
                    let from_key = own_position(b, q_idx) - i32(key) - vec4<i32>(0, 1, 2, 3);
                    slope -= dot(of_score, vec4<f32>(abs(from_key)));
                }
                gradients[i] = ds;
                largest = max(largest, magnitude(ds));
            }
            if (kind == PARTIAL) {
                keeps_nonfinite |= keeps_some_of(nonfinite >> part, kept, lane);
            }
            largest = row_magnitude(largest, lane.lanes);
            let grows = outgrows(largest, unit);
            let before = unit;
            unit = select(unit, unit_for(largest), grows);
            if (!VOTES || subgroupAny(grows && before != 0.0)) {
                let factor = select(1.0, unit / before, grows && before != 0.0);
                dq_{{INNER}} = rescaled(dq_{{INNER}}, lane, factor);
            }
            // The last part's gradients were loaded before the barriers of this one's products.
            for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                p_strips[lane.row * P_ROW + i * lane.lanes + lane.x] = vec4<f16>(gradients[i] * unit);
            }
            subgroupBarrier();
            for (var j = 0u; j < PART; j += MATRIX) {
                let rounded = strip_matrix(lane, j);
                dq_{{INNER}} = plus_product(rounded, turned_k_matrix({{INNER}}u, part + j), dq_{{INNER}});
            }
        }

        summed_keys += BLOCK_KV;
        if (FOLDS && summed_keys >= SEGMENT) {
            l_before += l;
            l = 0.0;
            slope_before += slope;
            slope = 0.0;
            let place = q_place(b, q_idx);
            fold_dq(place, h, row < block.q_len, lane, {{INNER}}u * MATRIX, dq_{{INNER}}, inverse(unit), goes_on, 1.0);
            dq_{{INNER}} = Sum();
            unit = 0.0;
            goes_on = true;
            summed_keys = 0u;
        }
    }
    l += l_before;
    slope += slope_before;

    // The other lanes of a row have read its terms in buffers, before one writes its norm there.
    storageBarrier();
    if (lane.has_strip) {
        let row_l = row_sum(l, lane.lanes);
        let row_slope = row_sum(slope, lane.lanes);
        let add_nonfinite = subgroupAny(keeps_nonfinite);
        let is_there = row < block.q_len;
        var norm = 0.0;
        var place: vec2<u32>;
        if (is_there) {
            place = q_place(b, row);
            norm = select(norm_of(terms.x, row_l, h), 1.0, precedes_keys());
            if (lane.x == 0u) {
                row_terms[row_at].z = select(norm, row_l, precedes_keys());
                if (SUMS_SLOPES) {
                    row_terms[row_at].w = row_slope * norm;
                }
            }
        }
        let factor = select(norm * (params.scale_abs * params.scale_sign), 1.0, precedes_keys());
        fold_dq(place, h, is_there, lane, {{INNER}}u * MATRIX, dq_{{INNER}}, inverse(unit), goes_on, factor);
        if (add_nonfinite && is_there) {
            // A lane has the components that it wrote.
            for (var d0 = 0u; d0 < HEAD_DIM; d0 += MATRIX) {
                for (var d = d0 + lane.x * 4u; d < min(d0 + MATRIX, params.head_dim); d += lane.lanes * 4u) {
                    let sum = load_dq4(place.x, h, place.y, d) + kept_nonfinite_k4(b, h, row, d, block.hull);
                    store_dq4(place.x, h, place.y, d, sum);
                }
            }
        }
    }
}
