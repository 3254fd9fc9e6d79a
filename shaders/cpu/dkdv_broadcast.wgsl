// dk and dv for CPU adapters: a subgroup is a vector register, and a lane has ROWS keys to itself.
//
//   for each query head of the group, in order:
//       for each tile of BLOCK_Q = SUBGROUP_SIZE queries that the mask doesn't empty:
//           s  = k q^T,  dp = v dout^T          lane: ROWS keys x BLOCK_Q queries, see cpu/broadcast/products
//           p  = exp(s - lse),  ds = p (dp - delta)     0 where the mask says so, in PARTIAL tiles only
//           dv = dv + p dout,  dk = dk + ds q   see cpu/broadcast/sums
//   dk = dk scale
//
// The loop over keys of FlashAttention-2 (arXiv 2307.08691, algorithm 2) without its atomic additions to dq.
// WRITE_DK and WRITE_DV say which of the two are made: both, unless the bindings don't reach.

// needs backward/: bound_heads, bound_queries, follows_queries, precedes_queries
// needs backward/cell: cell_of
// needs backward/key_block: has_no_keys, key_block, q_tile_class, skipped_rows
// needs bindings: params, row_terms
// needs common/problem: linear_workgroup
// needs constants: BLOCK_Q, FOLDS, HEAD_DIM, HEAD_DIM_V, ROWS, SEGMENT, SUBGROUP_SIZE, WRITE_DK
// needs cpu/broadcast/products: products_with_dout, products_with_q
// needs cpu/dkdv: add_columns, end_columns
// needs mask/algebra: SKIP
// needs rows/: load_k4, load_v4
// needs sequences/: kv_place
// needs sequences/positions: lse_index
// {{DROPOUT}} needs score/dropout: dropout_factor, dropout_row
// offers backward_dkdv

@compute @workgroup_size(SUBGROUP_SIZE)
fn backward_dkdv(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let block = key_block(index);
    if (has_no_keys(block)) {
        return;
    }
    let b = block.b;
    let h_kv = block.h_kv;

    var k_rows: array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>;
    var dk_rows: array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>;
    var v_rows: array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>;
    var dv_rows: array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        let place = kv_place(b, min(block.kv0 + r * SUBGROUP_SIZE + lane, block.kv_len - 1u));
        for (var i = 0u; i < HEAD_DIM / 4u; i += 1u) {
            k_rows[r][i] = load_k4(place.x, h_kv, place.y, i * 4u);
            dk_rows[r][i] = vec4<f32>(0.0);
        }
        for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
            v_rows[r][i] = load_v4(place.x, h_kv, place.y, i * 4u);
            dv_rows[r][i] = vec4<f32>(0.0);
        }
    }
    var keeps_nonfinite = false;
    var summed_queries = 0u;
    var goes_on = follows_queries();

    // No zero-iteration loop: see cpu/forward_broadcast.wgsl.
    if (block.q_len != 0u) {
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
                let own_q_idx = min(q0 + lane, block.q_len - 1u);
                let own_terms = row_terms[lse_index(b, h, own_q_idx)];

                // s becomes ds, dp becomes p.
                var s = products_with_q(&k_rows, b, h, q0, block.q_len - 1u, lane);
                var dp: array<array<f32, SUBGROUP_SIZE>, ROWS>;
                if (WRITE_DK) {
                    dp = products_with_dout(&v_rows, b, h, q0, block.q_len - 1u, lane);
                }

                for (var r = 0u; r < ROWS; r += 1u) {
                    let key = block.kv0 + r * SUBGROUP_SIZE + lane;
                    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
                        let q_idx = min(q0 + j, block.q_len - 1u);
                        let kv_idx = min(key, block.kv_len - 1u);
                        let cell = cell_of(s[r][j], dp[r][j], subgroupShuffle(own_terms, j), b, h, q_idx, kv_idx);
                        s[r][j] = cell.ds;
                        dp[r][j] = cell.p;
                        {{DROPOUT}} dp[r][j] *= dropout_factor(dropout_row(b, h, q_idx), kv_idx);
                    }
                }
                keeps_nonfinite |= add_columns(block, h, q0, kind, lane, &dp, &s, &dk_rows, &dv_rows);

                // See segments/folded.wgsl.
                summed_queries += BLOCK_Q;
                if (FOLDS && summed_queries >= SEGMENT) {
                    end_columns(block, lane, &dk_rows, &dv_rows, goes_on, 1.0, false);
                    dk_rows = array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>();
                    dv_rows = array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>();
                    goes_on = true;
                    summed_queries = 0u;
                }
            }
        }
    }

    let scale = select(params.scale_abs * params.scale_sign, 1.0, precedes_queries());
    end_columns(block, lane, &dk_rows, &dv_rows, goes_on, scale, keeps_nonfinite);
}
