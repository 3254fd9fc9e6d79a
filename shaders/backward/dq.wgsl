// dq for GPUs, with no need of subgroups: a workgroup has BLOCK_Q query rows and walks over the keys in tiles of
// BLOCK_KV, as the forward pass does.
//
//   for each tile of keys that the mask doesn't empty:
//       s  = q k^T,  dp = dout v^T              chunks of CHUNK components staged in workgroup memory
//       p  = exp(s - lse),  ds = p (dp - delta) 0 where the mask says so, in PARTIAL tiles only
//       l  = l + sum p                          each invocation's own share
//       dq = dq + ds k                          STAGED_ROWS keys staged at a time
//   norm = 1 / l,  dq = dq scale norm           see norm.wgsl
//
// With SUMS_SLOPES each row's share of the gradient of ALiBi's slope is summed like l, and left in the row's terms.
//
// Where rows have more keys than one running sum in f32 can hold, l and dq are folded into what was summed before, every
// SEGMENT keys: see segments/folded.wgsl.
//
// FlashAttention-2 (arXiv 2307.08691, algorithm 2) adds to dq atomically from the loop over keys that makes dk and dv.
// Here rows have a kernel of their own, which computes s and dp once more: no atomics, and the same bits each time.
//
// Barriers as in tiled.wgsl; at the end `cells` holds the shares of l, written behind the barriers of any_invocation, which
// follow the last sum's reads, and read behind one more; then those of the slope, behind a barrier that follows these reads.

// needs backward/: norm_of
// needs backward/cell: Cell, cell_of
// needs backward/fold: fold_dq
// needs bindings: params, row_terms
// needs common/nonfinite_keys: kept_nonfinite_k4
// needs common/problem: linear_workgroup
// needs common/query_block: QueryBlock, cell_kept, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, DQ_SLICE, FOLDS, SEGMENT, SUMS_SLOPES, THREADS_PER_ROW
// needs mask/algebra: PARTIAL, SKIP
// needs rows/: load_dq4, store_dq4
// needs segments/: follows_keys, precedes_keys
// needs sequences/: q_place
// needs sequences/positions: lse_index, own_position
// needs tile/product: product_dout_v, product_q_k
// needs tile/rows: CELL_ROW, INVOCATIONS, OTHERS, any_invocation, nonfinite_rows, nth, slice_start, sum_of_shares
// needs tile/side: Rows
// needs tile/staged: cells
// needs tile/sum: add_k
// offers backward_dq

@compute @workgroup_size(INVOCATIONS)
fn backward_dq(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
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
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;
    let row0 = block.q0 + y * 4u;
    let q_last = block.q_len - 1u;
    let own = Rows(b, h, block.q0, q_last);

    var l = vec4<f32>(0.0);
    var slope = vec4<f32>(0.0);
    var dq_rows: array<array<vec4<f32>, DQ_SLICE / 4u / THREADS_PER_ROW>, 4>;
    for (var r = 0u; r < 4u; r += 1u) {
        for (var i = 0u; i < DQ_SLICE / 4u / THREADS_PER_ROW; i += 1u) {
            dq_rows[r][i] = vec4<f32>(0.0);
        }
    }
    var keeps_nonfinite = false;
    var l_before = vec4<f32>(0.0);
    var slope_before = vec4<f32>(0.0);
    var summed_keys = 0u;
    var goes_on = follows_keys();
    // What the windows before have summed is one invocation's share.
    if (follows_keys() && x == 0u) {
        let row_0 = row_terms[lse_index(b, h, min(row0, q_last))];
        let row_1 = row_terms[lse_index(b, h, min(row0 + 1u, q_last))];
        let row_2 = row_terms[lse_index(b, h, min(row0 + 2u, q_last))];
        let row_3 = row_terms[lse_index(b, h, min(row0 + 3u, q_last))];
        l_before = vec4<f32>(row_0.z, row_1.z, row_2.z, row_3.z);
        slope_before = vec4<f32>(row_0.w, row_1.w, row_2.w, row_3.w);
    }

    for (var kv0 = block.hull.x / BLOCK_KV * BLOCK_KV; kv0 < block.hull.y; kv0 += BLOCK_KV) {
        let kind = kv_tile_class(block, kv0);
        if (kind == SKIP) {
            kv0 = last_skipped(block, kv0);
            continue;
        }
        let kv_last = block.kv_len - 1u;
        let other = Rows(b, block.h_kv, kv0, kv_last);
        let s = product_q_k(own, other, params.head_dim, invocation);
        let dp = product_dout_v(own, other, params.head_dim_v, invocation);

        if (invocation == 0u) {
            atomicStore(&nonfinite_rows[0], 0u);
        }
        // Bit j of kept: some of the four rows keeps key j of the tile.
        var kept = 0u;
        for (var i = 0u; i < OTHERS; i += 1u) {
            let j = x + i * THREADS_PER_ROW;
            let kv_idx = min(kv0 + j, kv_last);
            let products = nth(s, i);
            let dps = nth(dp, i);
            let cell0 = cell_of_row(products.x, dps.x, b, h, min(row0, q_last), kv_idx);
            let cell1 = cell_of_row(products.y, dps.y, b, h, min(row0 + 1u, q_last), kv_idx);
            let cell2 = cell_of_row(products.z, dps.z, b, h, min(row0 + 2u, q_last), kv_idx);
            let cell3 = cell_of_row(products.w, dps.w, b, h, min(row0 + 3u, q_last), kv_idx);
            var p = vec4<f32>(cell0.p, cell1.p, cell2.p, cell3.p);
            var ds = vec4<f32>(cell0.ds, cell1.ds, cell2.ds, cell3.ds);
            var of_score = vec4<f32>(cell0.dbias, cell1.dbias, cell2.dbias, cell3.dbias);
            if (kind == PARTIAL) {
                let keep = vec4<bool>(
                    cell_kept(block, row0, kv0 + j),
                    cell_kept(block, row0 + 1u, kv0 + j),
                    cell_kept(block, row0 + 2u, kv0 + j),
                    cell_kept(block, row0 + 3u, kv0 + j),
                );
                p = select(vec4<f32>(0.0), p, keep);
                ds = select(vec4<f32>(0.0), ds, keep);
                of_score = select(vec4<f32>(0.0), of_score, keep);
                kept |= select(0u, 1u << j, any(keep));
            }
            l += p;
            if (SUMS_SLOPES) {
                let from_key = own_position(b, row0) - i32(kv_idx) + vec4<i32>(0, 1, 2, 3);
                slope -= of_score * vec4<f32>(abs(from_key));
            }
            cells[j * CELL_ROW + y] = ds;
        }
        add_k(&dq_rows, other, kind, invocation);
        keeps_nonfinite |= (kept & atomicLoad(&nonfinite_rows[0])) != 0u;

        summed_keys += BLOCK_KV;
        if (FOLDS && summed_keys >= SEGMENT) {
            l_before += l;
            l = vec4<f32>(0.0);
            slope_before += slope;
            slope = vec4<f32>(0.0);
            fold_dq(b, h, row0, block.q_len, x, &dq_rows, goes_on, vec4<f32>(1.0));
            dq_rows = array<array<vec4<f32>, DQ_SLICE / 4u / THREADS_PER_ROW>, 4>();
            goes_on = true;
            summed_keys = 0u;
        }
    }
    l += l_before;
    slope += slope_before;

    // The rows' shares of l, from their THREADS_PER_ROW invocations.
    let add_nonfinite = any_invocation(keeps_nonfinite, invocation);
    l = sum_of_shares(l, y, x);
    if (SUMS_SLOPES) {
        workgroupBarrier();
        slope = sum_of_shares(slope, y, x);
    }
    // The other invocations of a row have read its terms in buffers, before one writes its norm there.
    storageBarrier();

    let norms = vec4<f32>(
        row_norm(block, row0, x, l.x, slope.x),
        row_norm(block, row0 + 1u, x, l.y, slope.y),
        row_norm(block, row0 + 2u, x, l.z, slope.z),
        row_norm(block, row0 + 3u, x, l.w, slope.w),
    );
    let scale = select(params.scale_abs * params.scale_sign, 1.0, precedes_keys());
    fold_dq(b, h, row0, block.q_len, x, &dq_rows, goes_on, norms * scale);
    if (add_nonfinite) {
        let start = slice_start(DQ_SLICE);
        let beyond = min(start + DQ_SLICE, params.head_dim);
        for (var row = row0; row < min(row0 + 4u, block.q_len); row += 1u) {
            let place = q_place(b, row);
            for (var d = start + x * 4u; d < beyond; d += THREADS_PER_ROW * 4u) {
                let sum = load_dq4(place.x, h, place.y, d) + kept_nonfinite_k4(b, h, row, d, block.hull);
                store_dq4(place.x, h, place.y, d, sum);
            }
        }
    }
}

fn cell_of_row(product: f32, dp: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> Cell {
    let terms = row_terms[lse_index(b, h, q_idx)];
    // The norm is what this kernel makes: a dispatch for another slice may have left it there already.
    return cell_of(product, dp, vec4<f32>(terms.xy, 1.0, 0.0), b, h, q_idx, kv_idx);
}

// A row's norm from the sum of its weights, noted for the kernels that follow with its share of the slope's gradient; rows beyond
// the last one have none.
fn row_norm(block: QueryBlock, row: u32, x: u32, l: f32, slope: f32) -> f32 {
    if (row >= block.q_len) {
        return 0.0;
    }
    let at = lse_index(block.b, block.h, row);
    let norm = select(norm_of(row_terms[at].x, l, block.h), 1.0, precedes_keys());
    if (x == 0u) {
        row_terms[at].z = select(norm, l, precedes_keys());
        if (SUMS_SLOPES) {
            row_terms[at].w = slope * norm;
        }
    }
    return norm;
}
