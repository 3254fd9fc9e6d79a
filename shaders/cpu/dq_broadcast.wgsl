// dq for CPU adapters: a subgroup is a vector register, and a lane has ROWS query rows to itself.
//
//   for each tile of BLOCK_KV = SUBGROUP_SIZE keys that the mask doesn't empty:
//       s  = q k^T,  dp = dout v^T              lane: ROWS rows x BLOCK_KV keys, see cpu/broadcast/products
//       p  = exp(s - lse),  ds = p (dp - delta) 0 where the mask says so, in PARTIAL tiles only
//       p and ds are kept for dk and dv         where these are made of them, see write_score_cache.wgsl
//       l  = l + sum p,  dq = dq + ds k         see cpu/broadcast/sums
//   norm = 1 / l,  dq = dq scale norm           see norm.wgsl
//
// With SUMS_SLOPES each row's share of the gradient of ALiBi's slope is summed like l, and left in the row's terms.
//
// FlashAttention-2 (arXiv 2307.08691, algorithm 2) adds to dq atomically from the loop over keys that makes dk and dv.
// Here rows have a kernel of their own: no atomics, and the same bits each time.

// needs backward/: norm_of
// needs backward/cell: cell_of
// needs bindings: params, row_terms
// needs common/nonfinite_keys: kept_nonfinite_k4
// needs common/problem: linear_workgroup
// needs common/query_block: cell_kept, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, FOLDS, HEAD_DIM, HEAD_DIM_V, ROWS, SEGMENT, SUBGROUP_SIZE, SUMS_SLOPES
// needs cpu/: write_score_cache
// needs cpu/broadcast/: add_k
// needs cpu/broadcast/products: products_with_k, products_with_v
// needs cpu/fold: fold_dq
// needs mask/algebra: PARTIAL, SKIP
// needs rows/: load_dout4, load_dq4, load_q4, store_dq4
// needs segments/: follows_keys, precedes_keys
// needs sequences/: q_place
// needs sequences/positions: lse_index, own_position
// {{DROPOUT}} needs cpu/dropout: dropped_weights
// offers backward_dq

@compute @workgroup_size(SUBGROUP_SIZE)
fn backward_dq(
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
    let b = block.b;
    let h = block.h;
    let h_kv = block.h_kv;

    var q_rows: array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>;
    var dout_rows: array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>;
    var dq_rows: array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>;
    var terms: array<vec4<f32>, ROWS>;
    var l: array<f32, ROWS>;
    var slopes: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        let row = min(block.q0 + r * SUBGROUP_SIZE + lane, block.q_len - 1u);
        let place = q_place(b, row);
        for (var i = 0u; i < HEAD_DIM / 4u; i += 1u) {
            q_rows[r][i] = load_q4(place.x, h, place.y, i * 4u);
            dq_rows[r][i] = vec4<f32>(0.0);
        }
        for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
            dout_rows[r][i] = load_dout4(place.x, h, place.y, i * 4u);
        }
        // Without the norm, which is still 1: lanes behind the last row read that row's terms while its own lane may write it.
        let at = lse_index(b, h, row);
        terms[r] = vec4<f32>(row_terms[at].x, row_terms[at].y, 1.0, 0.0);
        l[r] = 0.0;
        slopes[r] = 0.0;
    }
    var keeps_nonfinite = false;
    var l_before: array<f32, ROWS>;
    var slopes_before: array<f32, ROWS>;
    var summed_keys = 0u;
    var goes_on = follows_keys();
    for (var r = 0u; r < ROWS; r += 1u) {
        let row = block.q0 + r * SUBGROUP_SIZE + lane;
        if (follows_keys() && row < block.q_len) {
            l_before[r] = row_terms[lse_index(b, h, row)].z;
            slopes_before[r] = row_terms[lse_index(b, h, row)].w;
        }
    }

    // No zero-iteration loop: see cpu/forward_broadcast.wgsl.
    if (block.hull.x < block.hull.y) {
        for (var kv0 = block.hull.x / BLOCK_KV * BLOCK_KV; kv0 < block.hull.y; kv0 += BLOCK_KV) {
            let kind = kv_tile_class(block, kv0);
            if (kind == SKIP) {
                kv0 = last_skipped(block, kv0);
                continue;
            }
            // s becomes ds, dp becomes p.
            var s = products_with_k(&q_rows, b, h_kv, kv0, block.kv_len - 1u, lane);
            var dp = products_with_v(&dout_rows, b, h_kv, kv0, block.kv_len - 1u, lane);

            // Bit j of kept[r]: row r keeps key kv0 + j.
            var kept: array<u32, ROWS>;
            for (var r = 0u; r < ROWS; r += 1u) {
                let row = block.q0 + r * SUBGROUP_SIZE + lane;
                var of_scores: array<f32, SUBGROUP_SIZE>;
                for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
                    let q_idx = min(row, block.q_len - 1u);
                    let kv_idx = min(kv0 + j, block.kv_len - 1u);
                    let cell = cell_of(s[r][j], dp[r][j], terms[r], b, h, q_idx, kv_idx);
                    s[r][j] = cell.ds;
                    dp[r][j] = cell.p;
                    of_scores[j] = cell.dbias;
                }
                kept[r] = 0u;
                if (kind == PARTIAL) {
                    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
                        let keep = cell_kept(block, row, kv0 + j);
                        kept[r] |= select(0u, 1u << j, keep);
                        s[r][j] = select(0.0, s[r][j], keep);
                        dp[r][j] = select(0.0, dp[r][j], keep);
                        of_scores[j] = select(0.0, of_scores[j], keep);
                    }
                }
                var tile_sum = dp[r][0];
                for (var j = 1u; j < SUBGROUP_SIZE; j += 1u) {
                    tile_sum += dp[r][j];
                }
                l[r] += tile_sum;
                if (SUMS_SLOPES) {
                    var slope = 0.0;
                    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
                        slope -= of_scores[j] * f32(abs(own_position(b, row) - i32(kv0 + j)));
                    }
                    slopes[r] += slope;
                }
                {{DROPOUT}} dp[r] = dropped_weights(b, h, row, kv0, dp[r]);
                write_score_cache(index, r, kv0, lane, dp[r], s[r]);
            }

            let nonfinite_keys = add_k(&dq_rows, &s, b, h_kv, kv0, block.kv_len - 1u, kind, lane);
            for (var r = 0u; r < ROWS; r += 1u) {
                keeps_nonfinite |= (kept[r] & nonfinite_keys) != 0u;
            }

            // See segments/folded.wgsl.
            summed_keys += BLOCK_KV;
            if (FOLDS && summed_keys >= SEGMENT) {
                for (var r = 0u; r < ROWS; r += 1u) {
                    l_before[r] += l[r];
                    l[r] = 0.0;
                    slopes_before[r] += slopes[r];
                    slopes[r] = 0.0;
                    let row = block.q0 + r * SUBGROUP_SIZE + lane;
                    if (row < block.q_len) {
                        fold_dq(q_place(b, row), h, dq_rows[r], goes_on, 1.0);
                    }
                }
                dq_rows = array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>();
                goes_on = true;
                summed_keys = 0u;
            }
        }
    }

    let scale = select(params.scale_abs * params.scale_sign, 1.0, precedes_keys());
    for (var r = 0u; r < ROWS; r += 1u) {
        let row = block.q0 + r * SUBGROUP_SIZE + lane;
        if (row < block.q_len) {
            let place = q_place(b, row);
            let norm = select(norm_of(terms[r].x, l_before[r] + l[r], h), 1.0, precedes_keys());
            row_terms[lse_index(b, h, row)].z = select(norm, l_before[r] + l[r], precedes_keys());
            if (SUMS_SLOPES) {
                row_terms[lse_index(b, h, row)].w = (slopes_before[r] + slopes[r]) * norm;
            }
            fold_dq(place, h, dq_rows[r], goes_on, scale * norm);
        }
    }
    // A loop of its own: see cpu/forward_broadcast.wgsl.
    if (keeps_nonfinite) {
        for (var r = 0u; r < ROWS; r += 1u) {
            let row = block.q0 + r * SUBGROUP_SIZE + lane;
            if (row < block.q_len) {
                let place = q_place(b, row);
                for (var d = 0u; d < params.head_dim; d += 4u) {
                    let x = load_dq4(place.x, h, place.y, d) + kept_nonfinite_k4(b, h, row, d, block.hull);
                    store_dq4(place.x, h, place.y, d, x);
                }
            }
        }
    }
}
