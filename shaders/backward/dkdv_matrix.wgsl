// dk and dv on matrix units: all products by cooperative matrices of f16, summed in f32, which a subgroup multiplies together
// (VK_KHR_cooperative_matrix). A subgroup has a strip of MATRIX keys and walks over the queries of its group's heads.
//
//   k, v, dk, dv in matrices
//   for each query head of the group, in order:
//       for each tile of queries that the mask doesn't empty:
//           q_tile, dout_tile, q_turned, dout_turned = q, dout, q^T, dout^T
//           for PART queries of the tile at a time:
//               s = k q^T,  dp = v dout^T   by matrices, one after the other by way of the strip
//               p  = exp(s - lse),  ds = p (dp - delta)     0 where the mask says so, in PARTIAL tiles only
//               dv = dv + (p P_UNIT) dout   p rounded to f16
//               if some row outgrows its unit:  dk = dk unit' / unit
//               dk = dk + (ds unit) q       ds rounded to f16: see scaled_gradients.wgsl
//   dk = dk scale / unit,  dv = dv / P_UNIT
//
// WRITE_DK and WRITE_DV say which of the two are made: both where registers and bindings have room. The matrices of what isn't
// made are none.
//
// Every SEGMENT queries the sums are folded into those before, where there are more: see segments/folded.wgsl.
//
// Workgroup memory as in dq_matrix.wgsl.

// needs backward/: bound_heads, bound_queries, follows_queries, gradient_place, precedes_queries
// needs backward/cell: cell_of
// needs backward/fold_matrix: fold_dk, fold_dv
// needs backward/key_block: has_no_keys, key_block, key_kept, q_tile_class, skipped_rows
// needs backward/nonfinite_queries: kept_nonfinite_dout4, kept_nonfinite_q4
// needs backward/scaled_gradients: inverse, magnitude, outgrows, row_magnitude, unit_for
// needs backward/terms_tile: stage_terms, terms_tile
// needs bindings: params
// needs common/problem: linear_workgroup
// needs constants: BLOCK_KV, BLOCK_Q, FOLDS, HEAD_DIM, HEAD_DIM_V, INVOCATIONS, MATRIX, PART, SEGMENT, VECTORS, VOTES, WRITE_DK, WRITE_DV
// needs mask/algebra: PARTIAL, SKIP
// needs matrix/kept: keeps_some_of, kept_bits
// needs matrix/lanes: lane_of
// needs matrix/nonfinite_rows: clear_nonfinite_rows, noted_nonfinite_rows
// needs matrix/rows: dout_matrix, own_dout_matrix, own_q_matrix, q_matrix
// needs matrix/stage_blocks: stage_tile_of_dout, stage_tile_of_q
// needs matrix/stage_rows: stage_k, stage_v
// needs matrix/strips: PART4, P_ROW, S_ROW, p_strips, plus_product, rescaled, s_strips, store_in_strip, strip_matrix
// needs matrix/turned: turned_dout_matrix, turned_q_matrix
// needs rows/: load_dk4, load_dv4, store_dk4, store_dv4
// needs tile/side: Rows
// {{DROPOUT}} needs backward/dropout_queries: kept_by_dropout
// {{DROPOUT}} needs score/dropout: dropout_scale
// offers backward_dkdv

// Weights are at most 1, or little above where lse was rounded. Those from 2^-28 on keep f16's 11 bits.
const P_UNIT: f32 = 16384.0;

@compute @workgroup_size(INVOCATIONS)
fn backward_dkdv(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) subgroup_invocation: u32,
    @builtin(subgroup_size) subgroup_size: u32,
) {
    // Matrices are multiplied in uniform control flow, of which a return would be the end: a workgroup with nothing to
    // do visits no queries and writes no rows.
    let index = linear_workgroup(workgroup, workgroups);
    var block = key_block(min(index, params.end_workgroup - 1u));
    let is_idle = index >= params.end_workgroup || has_no_keys(block);
    if (is_idle) {
        block.q_len = 0u;
        block.kv_len = 0u;
    }
    let b = block.b;
    let h_kv = block.h_kv;
    let lane = lane_of(subgroup, subgroup_invocation, subgroup_size);
    let key = block.kv0 + lane.row;
    let kv_idx = min(key, max(block.kv_len, 1u) - 1u);
    clear_nonfinite_rows(invocation);
    var noted = 0u;

    var k_{{INNER}}: Left;
    var v_{{DP}}: Left;
    for (var first = 0u; first < BLOCK_KV && !is_idle; first += BLOCK_Q) {
        let own = Rows(b, h_kv, block.kv0 + first, block.kv_len - 1u);
        workgroupBarrier();
        stage_k(own, 1.0, invocation);
        {{WITH_DP}} stage_v(own, 1.0, invocation);
        workgroupBarrier();
        let staged = lane.strip * MATRIX;
        if (lane.has_strip && staged >= first && staged < first + BLOCK_Q) {
            k_{{INNER}} = own_q_matrix(staged - first, {{INNER}}u);
            v_{{DP}} = own_dout_matrix(staged - first, {{DP}}u);
        }
    }

    var unit = 0.0;
    var dk_{{DK}} = Sum();
    var dv_{{DV}} = Sum();
    var keeps_nonfinite = false;
    var summed_queries = 0u;
    var goes_on = follows_queries();

    let heads = bound_heads(h_kv);
    let queries = bound_queries(block.q_len);
    for (var h = heads.x; h < heads.y; h += 1u) {
        for (var q0 = queries.x; q0 < queries.y; q0 += BLOCK_Q) {
            let skipped = skipped_rows(block, h, q0);
            if (skipped != 0u) {
                q0 += skipped - BLOCK_Q;
                continue;
            }
            let kind = q_tile_class(block, h, q0);
            if (kind == SKIP) {
                continue;
            }
            let q_last = block.q_len - 1u;
            let tile = Rows(b, h, q0, q_last);
            workgroupBarrier();
            stage_tile_of_q(tile, kind, noted, invocation);
            stage_tile_of_dout(tile, kind, noted, invocation);
            stage_terms(tile, invocation);
            workgroupBarrier();
            var nonfinite = 0u;
            if (kind == PARTIAL) {
                nonfinite = noted_nonfinite_rows(noted, invocation);
                noted = 1u - noted;
            }
            if (!lane.has_strip) {
                continue;
            }
            for (var part = 0u; part < BLOCK_Q; part += PART) {
                for (var j = 0u; j < PART; j += MATRIX) {
                    var scores = Sum();
                    scores = plus_product(k_{{INNER}}, q_matrix(part + j, {{INNER}}u), scores);
                    store_in_strip(scores, lane, j);
                }
                subgroupBarrier();
                var s: array<vec4<f32>, VECTORS>;
                for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                    s[i] = s_strips[lane.row * S_ROW + i * lane.lanes + lane.x];
                }
                if (WRITE_DK) {
                    // The scores are read before dp overwrites them.
                    subgroupBarrier();
                    for (var j = 0u; j < PART; j += MATRIX) {
                        var weighed = Sum();
                        weighed = plus_product(v_{{DP}}, dout_matrix(part + j, {{DP}}u), weighed);
                        store_in_strip(weighed, lane, j);
                    }
                    subgroupBarrier();
                }

                var gradients: array<vec4<f32>, VECTORS>;
                var largest = 0u;
                var kept = 0u;
                for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                    let column = i * lane.lanes + lane.x;
                    let at = part + column * 4u;
                    let q_idx = q0 + at;
                    // Without dk, of no use.
                    let dp = s_strips[lane.row * S_ROW + column];
                    let cell0 = cell_of(s[i].x, dp.x, terms_tile[at], b, h, min(q_idx, q_last), kv_idx);
                    let cell1 = cell_of(s[i].y, dp.y, terms_tile[at + 1u], b, h, min(q_idx + 1u, q_last), kv_idx);
                    let cell2 = cell_of(s[i].z, dp.z, terms_tile[at + 2u], b, h, min(q_idx + 2u, q_last), kv_idx);
                    let cell3 = cell_of(s[i].w, dp.w, terms_tile[at + 3u], b, h, min(q_idx + 3u, q_last), kv_idx);
                    var p = vec4<f32>(cell0.p, cell1.p, cell2.p, cell3.p);
                    var ds = vec4<f32>(cell0.ds, cell1.ds, cell2.ds, cell3.ds);
                    if (kind == PARTIAL) {
                        let keep = vec4<bool>(
                            key_kept(block, h, q_idx, key),
                            key_kept(block, h, q_idx + 1u, key),
                            key_kept(block, h, q_idx + 2u, key),
                            key_kept(block, h, q_idx + 3u, key),
                        );
                        p = select(vec4<f32>(0.0), p, keep);
                        ds = select(vec4<f32>(0.0), ds, keep);
                        kept |= kept_bits(keep, i);
                    }
                    {{DROPOUT}} p = select(vec4<f32>(0.0), p, kept_by_dropout(b, h, q_idx, q_last, kv_idx));
                    if (WRITE_DV) {
                        p_strips[lane.row * P_ROW + column] = vec4<f16>(p * P_UNIT);
                    }
                    gradients[i] = ds;
                    largest = max(largest, magnitude(ds));
                }
                if (kind == PARTIAL) {
                    keeps_nonfinite |= keeps_some_of(nonfinite >> part, kept, lane);
                }
                // Orders the weights, and what was read of the strips before they are written again.
                subgroupBarrier();
                if (WRITE_DV) {
                    for (var j = 0u; j < PART; j += MATRIX) {
                        let weights = strip_matrix(lane, j);
                        dv_{{DV}} = plus_product(weights, turned_dout_matrix({{DV}}u, part + j), dv_{{DV}});
                    }
                }
                if (WRITE_DK) {
                    largest = row_magnitude(largest, lane.lanes);
                    let grows = outgrows(largest, unit);
                    let before = unit;
                    unit = select(unit, unit_for(largest), grows);
                    if (!VOTES || subgroupAny(grows && before != 0.0)) {
                        let factor = select(1.0, unit / before, grows && before != 0.0);
                        dk_{{DK}} = rescaled(dk_{{DK}}, lane, factor);
                    }
                    // The weights are loaded before the gradients overwrite them.
                    subgroupBarrier();
                    for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
                        p_strips[lane.row * P_ROW + i * lane.lanes + lane.x] = vec4<f16>(gradients[i] * unit);
                    }
                    subgroupBarrier();
                    for (var j = 0u; j < PART; j += MATRIX) {
                        let rounded = strip_matrix(lane, j);
                        dk_{{DK}} = plus_product(rounded, turned_q_matrix({{DK}}u, part + j), dk_{{DK}});
                    }
                }
            }

            summed_queries += BLOCK_Q;
            if (FOLDS && summed_queries >= SEGMENT) {
                let place = gradient_place(b, kv_idx);
                let is_there = key < block.kv_len;
                fold_dk(place, h_kv, is_there, lane, {{DK}}u * MATRIX, dk_{{DK}}, inverse(unit), goes_on, 1.0);
                fold_dv(place, h_kv, is_there, lane, {{DV}}u * MATRIX, dv_{{DV}}, 1.0 / P_UNIT, goes_on, 1.0);
                dk_{{DK}} = Sum();
                dv_{{DV}} = Sum();
                unit = 0.0;
                goes_on = true;
                summed_queries = 0u;
            }
        }
    }

    if (lane.has_strip) {
        let add_nonfinite = subgroupAny(keeps_nonfinite);
        let is_there = key < block.kv_len;
        var place: vec2<u32>;
        if (is_there) {
            place = gradient_place(b, key);
        }
        var factor = 1.0;
        {{DROPOUT}} factor = dropout_scale();
        let scale = select(params.scale_abs * params.scale_sign, 1.0, precedes_queries());
        factor = select(factor, 1.0, precedes_queries());
        fold_dk(place, h_kv, is_there, lane, {{DK}}u * MATRIX, dk_{{DK}}, inverse(unit), goes_on, scale);
        fold_dv(place, h_kv, is_there, lane, {{DV}}u * MATRIX, dv_{{DV}}, 1.0 / P_UNIT, goes_on, factor);
        if (add_nonfinite && is_there) {
            // A lane has the components that it wrote.
            for (var d0 = 0u; d0 < HEAD_DIM; d0 += MATRIX) {
                for (var d = d0 + lane.x * 4u; d < min(d0 + MATRIX, params.head_dim); d += lane.lanes * 4u) {
                    let sum = load_dk4(place.x, h_kv, place.y, d) + kept_nonfinite_q4(b, h_kv, key, d);
                    store_dk4(place.x, h_kv, place.y, d, sum);
                }
            }
            for (var d0 = 0u; d0 < HEAD_DIM_V; d0 += MATRIX) {
                for (var d = d0 + lane.x * 4u; d < min(d0 + MATRIX, params.head_dim_v); d += lane.lanes * 4u) {
                    let sum = load_dv4(place.x, h_kv, place.y, d) + kept_nonfinite_dout4(b, h_kv, key, d);
                    store_dv4(place.x, h_kv, place.y, d, sum);
                }
            }
        }
    }
}
