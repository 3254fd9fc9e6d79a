// Flash attention for GPUs, with no need of subgroups: a workgroup has BLOCK_Q query rows and walks over the keys in
// tiles of BLOCK_KV (FlashAttention-2, arXiv 2307.08691, algorithm 1).
//
//   for each tile of keys that the mask doesn't empty:
//       s    = q k^T                            chunks of CHUNK components staged in workgroup memory
//       s    = LOWEST where the mask says so    in PARTIAL tiles only
//       m'   = max(m, max s)                    over the THREADS_PER_ROW invocations that share the rows
//       p    = 2^((s - m') c)                   to workgroup memory, keys x rows
//       l, o = l 2^((m - m') c) + sum p, o 2^((m - m') c) + p v    STAGED_ROWS values staged at a time
//   o = o / l,  lse = ln l + m scale
//
// Invocations have rows, keys and components as in tile/rows.wgsl and tile/softmax.wgsl; barriers are as in
// tile/staged.wgsl, where `cells` holds first the rows' maxima, then the weights.

// needs bindings: params
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs common/query_block: QueryBlock, is_empty, kv_tile_class, last_skipped, query_block
// needs constants: BLOCK_KV, THREADS_PER_ROW
// needs mask/algebra: PARTIAL, SKIP
// needs mask_tables/: next_visited
// needs segments/: first_segment, is_last_segment, next_segment
// needs tile/product: product_q_k
// needs tile/rows: CELL_ROW, INVOCATIONS
// needs tile/side: Rows
// needs tile/softmax: KEYS, OUTPUTS, finish_rows, keeps_nonfinite_key, rows_maximum, score_tile, tile_sum, weigh_tile
// needs tile/staged: cells
// needs tile/sum: add_v
// {{DROPOUT}} needs tile/dropout: drop_weights
// offers forward, tile_key

fn tile_key(x: u32, i: u32) -> u32 {
    return x + i * THREADS_PER_ROW;
}

@compute @workgroup_size(INVOCATIONS)
fn forward(
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
    var keys = first_segment(block.hull);
    loop {
        attend(block, keys, invocation);
        if (is_last_segment(keys, block.hull)) {
            break;
        }
        keys = next_segment(keys, block.hull);
        {{BOUNDS}} keys = first_segment(vec2<u32>(next_visited(block.b, block.h, block.q0, block.q1, keys.x), block.hull.y));
    }
}

// The block's rows over one segment of the keys.
fn attend(block: QueryBlock, keys: vec2<u32>, invocation: u32) {
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;
    let own = Rows(block.b, block.h, block.q0, block.q_len - 1u);

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
            kv0 = last_skipped(block, kv0);
            continue;
        }
        let other = Rows(block.b, block.h_kv, kv0, block.kv_len - 1u);
        var s = product_q_k(own, other, params.head_dim, invocation);
        for (var i = 0u; i < KEYS; i += 1u) {
            s[i] *= params.scale_sign;
        }
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
        workgroupBarrier();
        weigh_tile(m, kind, kept, invocation, &s);
        l += tile_sum(&s);
        {{DROPOUT}} drop_weights(block, kv0, y, x, &s);
        for (var i = 0u; i < KEYS; i += 1u) {
            cells[tile_key(x, i) * CELL_ROW + y] = s[i];
        }

        add_v(&o_rows, other, kind, invocation);
        if (kind == PARTIAL) {
            keeps_nonfinite |= keeps_nonfinite_key(kept, x);
        }
    }

    finish_rows(block, keys, y, x, invocation, m, l, keeps_nonfinite, &o_rows);
}
