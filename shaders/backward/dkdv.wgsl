// dk and dv for GPUs, with no need of subgroups: a workgroup has BLOCK_KV keys and walks over the queries of its group's
// heads in tiles of BLOCK_Q.
//
//   for each query head of the group, in order:
//       for each tile of queries that the mask doesn't empty:
//           s  = k q^T,  dp = v dout^T          chunks of CHUNK components staged in workgroup memory
//           p  = exp(s - lse),  ds = p (dp - delta)     0 where the mask says so, in PARTIAL tiles only
//           dv = dv + p dout,  dk = dk + ds q   STAGED_ROWS queries staged at a time
//   dk = dk scale
//
// The loop over keys of FlashAttention-2 (arXiv 2307.08691, algorithm 2) without its atomic additions to dq.
// WRITE_DK and WRITE_DV say which of the two are made: both, unless the bindings don't reach.
//
// Every SEGMENT queries the sums are folded into those before, where there are more: see segments/folded.wgsl.
//
// Barriers as in tiled.wgsl; where both are made, `cells` holds p, then ds: one more stands between the reads of the sum for dv
// and the writes of ds.

// needs backward/: bound_heads, bound_queries, follows_queries, gradient_place, precedes_queries
// needs backward/cell: cell_of
// needs backward/fold: fold_dk, fold_dv
// needs backward/key_block: has_no_keys, key_block, key_kept, q_tile_class, skipped_rows
// needs backward/nonfinite_queries: kept_nonfinite_dout4, kept_nonfinite_q4
// needs bindings: params, row_terms
// needs common/problem: linear_workgroup
// needs constants: BLOCK_Q, DK_SLICE, DV_SLICE, FOLDS, SEGMENT, THREADS_PER_ROW, WRITE_DK, WRITE_DV
// needs mask/algebra: PARTIAL, SKIP
// needs rows/: load_dk4, load_dv4, store_dk4, store_dv4
// needs sequences/positions: lse_index
// needs tile/product: product_k_q, product_v_dout
// needs tile/rows: CELL_ROW, INVOCATIONS, OTHERS, any_invocation, nonfinite_rows, nth, set_nth, slice_start
// needs tile/side: Rows
// needs tile/staged: cells
// needs tile/sum: add_dout, add_q
// {{DROPOUT}} needs backward/dropout: dropout_factors
// offers backward_dkdv

@compute @workgroup_size(INVOCATIONS)
fn backward_dkdv(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
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
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;
    let key0 = block.kv0 + y * 4u;
    let kv_last = block.kv_len - 1u;
    let own = Rows(b, block.h_kv, block.kv0, kv_last);

    var dk_rows: array<array<vec4<f32>, DK_SLICE / 4u / THREADS_PER_ROW>, 4>;
    var dv_rows: array<array<vec4<f32>, DV_SLICE / 4u / THREADS_PER_ROW>, 4>;
    for (var r = 0u; r < 4u; r += 1u) {
        for (var i = 0u; i < DK_SLICE / 4u / THREADS_PER_ROW; i += 1u) {
            dk_rows[r][i] = vec4<f32>(0.0);
        }
        for (var i = 0u; i < DV_SLICE / 4u / THREADS_PER_ROW; i += 1u) {
            dv_rows[r][i] = vec4<f32>(0.0);
        }
    }
    var keeps_nonfinite = false;
    var summed_queries = 0u;
    var goes_on = follows_queries();

    let heads = bound_heads(block.h_kv);
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
            let other = Rows(b, h, q0, q_last);
            let s = product_k_q(own, other, params.head_dim, invocation);
            var dp: array<vec4<f32>, OTHERS>;
            if (WRITE_DK) {
                dp = product_v_dout(own, other, params.head_dim_v, invocation);
            }

            if (invocation == 0u) {
                atomicStore(&nonfinite_rows[0], 0u);
            }
            var gradients: array<vec4<f32>, OTHERS>;
            // Bit j of kept: query j of the tile keeps some of the four keys.
            var kept = 0u;
            for (var i = 0u; i < OTHERS; i += 1u) {
                let j = x + i * THREADS_PER_ROW;
                let q_idx = min(q0 + j, q_last);
                let terms = row_terms[lse_index(b, h, q_idx)];
                let products = nth(s, i);
                let dps = nth(dp, i);
                let cell0 = cell_of(products.x, dps.x, terms, b, h, q_idx, min(key0, kv_last));
                let cell1 = cell_of(products.y, dps.y, terms, b, h, q_idx, min(key0 + 1u, kv_last));
                let cell2 = cell_of(products.z, dps.z, terms, b, h, q_idx, min(key0 + 2u, kv_last));
                let cell3 = cell_of(products.w, dps.w, terms, b, h, q_idx, min(key0 + 3u, kv_last));
                var p = vec4<f32>(cell0.p, cell1.p, cell2.p, cell3.p);
                var ds = vec4<f32>(cell0.ds, cell1.ds, cell2.ds, cell3.ds);
                if (kind == PARTIAL) {
                    let keep = vec4<bool>(
                        key_kept(block, h, q0 + j, key0),
                        key_kept(block, h, q0 + j, key0 + 1u),
                        key_kept(block, h, q0 + j, key0 + 2u),
                        key_kept(block, h, q0 + j, key0 + 3u),
                    );
                    p = select(vec4<f32>(0.0), p, keep);
                    ds = select(vec4<f32>(0.0), ds, keep);
                    kept |= select(0u, 1u << j, any(keep));
                }
                {{DROPOUT}} p *= dropout_factors(b, h, q_idx, key0, kv_last);
                set_nth(&gradients, i, ds);
                cells[j * CELL_ROW + y] = select(ds, p, WRITE_DV);
            }
            if (WRITE_DV) {
                add_dout(&dv_rows, other, kind, invocation);
            }
            if (WRITE_DV && WRITE_DK) {
                workgroupBarrier();
                for (var i = 0u; i < OTHERS; i += 1u) {
                    cells[(x + i * THREADS_PER_ROW) * CELL_ROW + y] = gradients[i];
                }
            }
            if (WRITE_DK) {
                add_q(&dk_rows, other, kind, invocation);
            }
            keeps_nonfinite |= (kept & atomicLoad(&nonfinite_rows[0])) != 0u;

            summed_queries += BLOCK_Q;
            if (FOLDS && summed_queries >= SEGMENT) {
                fold_dk(b, block.h_kv, key0, block.kv_len, x, &dk_rows, goes_on, vec4<f32>(1.0));
                fold_dv(b, block.h_kv, key0, block.kv_len, x, &dv_rows, goes_on, vec4<f32>(1.0));
                dk_rows = array<array<vec4<f32>, DK_SLICE / 4u / THREADS_PER_ROW>, 4>();
                dv_rows = array<array<vec4<f32>, DV_SLICE / 4u / THREADS_PER_ROW>, 4>();
                goes_on = true;
                summed_queries = 0u;
            }
        }
    }

    let add_nonfinite = any_invocation(keeps_nonfinite, invocation);
    let scale = select(params.scale_abs * params.scale_sign, 1.0, precedes_queries());
    fold_dk(b, block.h_kv, key0, block.kv_len, x, &dk_rows, goes_on, vec4<f32>(scale));
    fold_dv(b, block.h_kv, key0, block.kv_len, x, &dv_rows, goes_on, vec4<f32>(1.0));
    if (add_nonfinite) {
        let dk_start = slice_start(DK_SLICE);
        let dk_beyond = min(dk_start + DK_SLICE, params.head_dim);
        let dv_start = slice_start(DV_SLICE);
        let dv_beyond = min(dv_start + DV_SLICE, params.head_dim_v);
        for (var key = key0; key < min(key0 + 4u, block.kv_len); key += 1u) {
            let place = gradient_place(b, key);
            for (var d = dk_start + x * 4u; d < dk_beyond; d += THREADS_PER_ROW * 4u) {
                let sum = load_dk4(place.x, block.h_kv, place.y, d) + kept_nonfinite_q4(b, block.h_kv, key, d);
                store_dk4(place.x, block.h_kv, place.y, d, sum);
            }
            for (var d = dv_start + x * 4u; d < dv_beyond; d += THREADS_PER_ROW * 4u) {
                let sum = load_dv4(place.x, block.h_kv, place.y, d) + kept_nonfinite_dout4(b, block.h_kv, key, d);
                store_dv4(place.x, block.h_kv, place.y, d, sum);
            }
        }
    }
}
