// Flash attention for CPU adapters: a subgroup is a vector register, and a lane has ROWS query rows to itself.
//
//   for each tile of BLOCK_KV = SUBGROUP_SIZE keys that the mask doesn't empty:
//       s    = q k^T                            lane: ROWS rows x BLOCK_KV keys, see cpu/broadcast/products
//       s    = LOWEST where the mask says so    in PARTIAL tiles only
//       m, l = online softmax                   lane: its own rows, no reduction across lanes
//       o    = o + p v                          see cpu/broadcast/sums
//   o = o / l,  lse = ln l + m scale
//
// No workgroup memory, no barriers: a workgroup is one subgroup. Row r of a lane is q0 + r * SUBGROUP_SIZE + lane.

// needs bindings: params
// needs common/nonfinite: is_nonfinite
// needs common/nonfinite_keys: kept_nonfinite_v4
// needs common/nonfinite_sums: with_kept_nonfinite
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs common/query_block: QueryBlock, cell_kept, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, CACHED_KEYS, HEAD_DIM, HEAD_DIM_V, MODIFIED, ROWS, SUBGROUP_SIZE
// needs cpu/broadcast/: add_v
// needs cpu/broadcast/products: products_with_k
// needs cpu/prefetch/keys: fetch_keys
// needs generated: modified_score
// needs mask/algebra: PARTIAL, SKIP
// needs mask_tables/: next_visited
// needs rows/: load_o4, load_q4, store_o4
// needs segments/: first_segment, folded_o4, is_last_segment, next_segment, segment_end, segment_stats
// needs sequences/: q_place
// {{DROPOUT}} needs cpu/dropout: dropped_weights
// offers forward

@compute @workgroup_size(SUBGROUP_SIZE)
fn forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
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
        attend(block, keys, lane);
        if (is_last_segment(keys, block.hull)) {
            break;
        }
        keys = next_segment(keys, block.hull);
        {{BOUNDS}} keys = first_segment(vec2<u32>(next_visited(block.b, block.h, block.q0, block.q1, keys.x), block.hull.y));
    }
}

// The block's rows over one segment of the keys.
fn attend(block: QueryBlock, keys: vec2<u32>, lane: u32) {
    let b = block.b;
    let h = block.h;
    let h_kv = block.h_kv;

    var q_rows: array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>;
    var o_rows: array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        let place = q_place(b, min(block.q0 + r * SUBGROUP_SIZE + lane, block.q_len - 1u));
        for (var i = 0u; i < HEAD_DIM / 4u; i += 1u) {
            q_rows[r][i] = load_q4(place.x, h, place.y, i * 4u) * params.scale_sign;
        }
        for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
            o_rows[r][i] = vec4<f32>(0.0);
        }
        m[r] = LOWEST;
        l[r] = 0.0;
    }
    var keeps_nonfinite = false;
    // Of fewer keys, most are there from the block before.
    let outgrows_cache = block.hull.y - block.hull.x > CACHED_KEYS;

    // Mesa's driver for CPUs runs a loop's body once more when it's over, with no lane on, and reads through a descriptor that a
    // zero-iteration loop never made: so no such loop.
    if (keys.x < keys.y) {
        for (var kv0 = keys.x / BLOCK_KV * BLOCK_KV; kv0 < keys.y; kv0 += BLOCK_KV) {
            let kind = kv_tile_class(block, kv0);
            if (kind == SKIP) {
                kv0 = last_skipped(block, kv0);
                continue;
            }
            if (outgrows_cache) {
                // Were it true, the end would look for numbers that aren't finite, and find none.
                keeps_nonfinite |= fetch_keys(b, h_kv, kv0 + BLOCK_KV, block.bound.y - 1u);
            }
            var s = products_with_k(&q_rows, b, h_kv, kv0, block.kv_len - 1u, lane);

            // Bit j of kept[r]: row r keeps key kv0 + j.
            var kept: array<u32, ROWS>;
            for (var r = 0u; r < ROWS; r += 1u) {
                kept[r] = 0u;
                if (MODIFIED) {
                    let row = min(block.q0 + r * SUBGROUP_SIZE + lane, block.q_len - 1u);
                    for (var j = 0u; j < BLOCK_KV; j += 1u) {
                        s[r][j] = modified_score(s[r][j], b, h, row, min(kv0 + j, block.kv_len - 1u));
                    }
                }
                if (kind == PARTIAL) {
                    let row = block.q0 + r * SUBGROUP_SIZE + lane;
                    for (var j = 0u; j < BLOCK_KV; j += 1u) {
                        let keep = cell_kept(block, row, kv0 + j);
                        kept[r] |= select(0u, 1u << j, keep);
                        s[r][j] = select(LOWEST, s[r][j], keep);
                    }
                }
            }

            for (var r = 0u; r < ROWS; r += 1u) {
                var m_new = m[r];
                for (var j = 0u; j < BLOCK_KV; j += 1u) {
                    m_new = max(m_new, s[r][j]);
                }
                // As the maximum settles, most tiles have nothing to rescale. No vote: such drivers count lanes one by one.
                if (m_new != m[r]) {
                    let shrink = exp2((m[r] - m_new) * params.softmax_scale_log2);
                    l[r] *= shrink;
                    // By two: Mesa unrolls no loop of more than 32 turns here, and o_rows would be an array in memory.
                    for (var i = 0u; i < HEAD_DIM_V / 4u; i += 2u) {
                        o_rows[r][i] *= shrink;
                        o_rows[r][i + 1u] *= shrink;
                    }
                }
                m[r] = m_new;
                for (var j = 0u; j < BLOCK_KV; j += 1u) {
                    s[r][j] = exp2((s[r][j] - m_new) * params.softmax_scale_log2);
                }
                if (kind == PARTIAL) {
                    for (var j = 0u; j < BLOCK_KV; j += 1u) {
                        s[r][j] = select(0.0, s[r][j], (kept[r] & (1u << j)) != 0u);
                    }
                }
                var tile_sum = s[r][0];
                for (var j = 1u; j < BLOCK_KV; j += 1u) {
                    tile_sum += s[r][j];
                }
                l[r] += tile_sum;
                {{DROPOUT}} s[r] = dropped_weights(b, h, block.q0 + r * SUBGROUP_SIZE + lane, kv0, s[r]);
            }

            let nonfinite_keys = add_v(&o_rows, &s, b, h_kv, kv0, block.kv_len - 1u, kind, lane);
            for (var r = 0u; r < ROWS; r += 1u) {
                keeps_nonfinite |= (kept[r] & nonfinite_keys) != 0u;
            }
        }
    }

    // The rows' sums of weights, of this segment and those before.
    var row_sums: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        let row = block.q0 + r * SUBGROUP_SIZE + lane;
        if (row < block.q_len) {
            let place = q_place(b, row);
            let end = segment_end(block, keys, row, m[r], l[r], segment_stats(block, keys, row), true);
            row_sums[r] = end.l;
            for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
                keeps_nonfinite |= any(is_nonfinite(o_rows[r][i]));
                store_o4(place.x, h, place.y, i * 4u, folded_o4(block, keys, place, i * 4u, o_rows[r][i], end));
            }
        }
    }
    // A loop of its own: the one above, with this one's inner loop in it, would stay a loop, and o_rows an array in memory.
    if (keeps_nonfinite) {
        for (var r = 0u; r < ROWS; r += 1u) {
            let row = block.q0 + r * SUBGROUP_SIZE + lane;
            if (row < block.q_len) {
                let place = q_place(b, row);
                for (var d = 0u; d < params.head_dim_v; d += 4u) {
                    let kept = kept_nonfinite_v4(b, h, row, d, keys);
                    let value = with_kept_nonfinite(load_o4(place.x, h, place.y, d), kept, row_sums[r]);
                    store_o4(place.x, h, place.y, d, value);
                }
            }
        }
    }
}
