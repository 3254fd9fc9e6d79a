// The gradients of the buffers that the user's score function reads, which learned_share calls by number. Of each element:
//
//   sum over the cells whose score depends on it of NAME_grad(exp(s - lse) (dp - delta), score, ...)
//
// Which cells these are is known to the user's function alone. So each workgroup sums up its own cells, CUSTOM_ROWS rows by
// SEGMENT keys of a head, for every element, and custom_sums.wgsl adds up what the workgroups have. An invocation has one key
// and TILE_ROWS rows at a time.
//
// A workgroup has SUM_COLUMNS sums of each element. The invocations that share a column add to it in turns, with a barrier
// between them, so that the sums run in one order; storage barriers stand in control flow that is uniform for the workgroup.

// needs backward/cell: cell_of
// needs bindings: custom_shares, params, row_terms
// needs common/problem: linear_workgroup
// needs constants: CUSTOM_ROWS, LEARNED, SEGMENT, SUM_COLUMNS, TILE_ROWS, WORKGROUP_SIZE
// needs generated: learned_elements, learned_share, mask_keep, mask_tile_closed
// needs mask/algebra: SKIP, Tile
// needs rows/: load_dout4, load_k4, load_q4, load_v4
// needs sequences/: kv_len, kv_place, q_len, q_place
// needs sequences/positions: lse_index
// offers ElementShare, backward_custom

// What a cell adds to which element, these numbered through all buffers.
struct ElementShare {
    element: u32,
    value: f32,
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_custom(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    // [batch, num_heads, blocks of rows, segments of keys]
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let segments = (params.seq_len_kv + SEGMENT - 1u) / SEGMENT;
    let row_blocks = (params.seq_len_q + CUSTOM_ROWS - 1u) / CUSTOM_ROWS;
    let kv_begin = index % segments * SEGMENT;
    let q_begin = index / segments % row_blocks * CUSTOM_ROWS;
    let h = index / segments / row_blocks % params.num_heads;
    let b = index / segments / row_blocks / params.num_heads;
    let q_end = min(q_begin + CUSTOM_ROWS, q_len(b));
    let kv_end = min(kv_begin + SEGMENT, kv_len(b));

    let size = learned_elements() * SUM_COLUMNS;
    let first = (index - params.cells_first_workgroup) * size;
    for (var i = invocation; i < size; i += WORKGROUP_SIZE) {
        custom_shares[first + i] = 0.0;
    }
    storageBarrier();

    for (var q0 = q_begin; q0 < q_end; q0 += TILE_ROWS) {
        for (var kv0 = kv_begin; kv0 < kv_end; kv0 += WORKGROUP_SIZE) {
            let tile = Tile(q0, min(q0 + TILE_ROWS, q_end), kv0, min(kv0 + WORKGROUP_SIZE, kv_end));
            if (mask_tile_closed(b, h, tile) == SKIP) {
                continue;
            }
            let kv_idx = min(kv0 + invocation, kv_end - 1u);
            let products = products_of(b, h, q0, q_end - 1u, kv_idx);
            // Bit r of kept: row r keeps the key.
            var kept = 0u;
            var gradients: array<f32, TILE_ROWS>;
            var scores: array<f32, TILE_ROWS>;
            for (var r = 0u; r < TILE_ROWS; r += 1u) {
                let q_idx = min(q0 + r, q_end - 1u);
                let keep = mask_keep(b, h, q_idx, kv_idx) & (q0 + r < q_end) & (kv0 + invocation < kv_end);
                kept |= select(0u, 1u << r, keep);
                let row = row_terms[lse_index(b, h, q_idx)];
                // In this kernel, what score_gradient passes on: the gradient of what score_mod returned, and the score it got.
                let cell = cell_of(products[r].x, products[r].y, row, b, h, q_idx, kv_idx);
                gradients[r] = cell.ds;
                scores[r] = cell.dbias;
            }
            for (var buffer = 0u; buffer < LEARNED; buffer += 1u) {
                var places: array<u32, TILE_ROWS>;
                var values: array<f32, TILE_ROWS>;
                for (var r = 0u; r < TILE_ROWS; r += 1u) {
                    let q_idx = min(q0 + r, q_end - 1u);
                    let share = learned_share(buffer, gradients[r], scores[r], b, h, q_idx, kv_idx);
                    places[r] = first + share.element * SUM_COLUMNS + invocation % SUM_COLUMNS;
                    values[r] = share.value;
                }
                for (var turn = 0u; turn < WORKGROUP_SIZE / SUM_COLUMNS; turn += 1u) {
                    if (invocation / SUM_COLUMNS == turn) {
                        for (var r = 0u; r < TILE_ROWS; r += 1u) {
                            if ((kept & (1u << r)) != 0u) {
                                custom_shares[places[r]] += values[r];
                            }
                        }
                    }
                    storageBarrier();
                }
            }
        }
    }
}

// q . k and dout . v of a key and of TILE_ROWS rows, none beyond the last.
fn products_of(b: u32, h: u32, q0: u32, q_last: u32, kv_idx: u32) -> array<vec2<f32>, TILE_ROWS> {
    let key_at = kv_place(b, kv_idx);
    let h_kv = h / params.group_size;
    var products: array<vec2<f32>, TILE_ROWS>;
    for (var r = 0u; r < TILE_ROWS; r += 1u) {
        products[r] = vec2<f32>(0.0);
    }
    for (var d = 0u; d < params.head_dim; d += 4u) {
        let y = load_k4(key_at.x, h_kv, key_at.y, d);
        for (var r = 0u; r < TILE_ROWS; r += 1u) {
            let row_at = q_place(b, min(q0 + r, q_last));
            products[r].x += dot(load_q4(row_at.x, h, row_at.y, d), y);
        }
    }
    for (var d = 0u; d < params.head_dim_v; d += 4u) {
        let y = load_v4(key_at.x, h_kv, key_at.y, d);
        for (var r = 0u; r < TILE_ROWS; r += 1u) {
            let row_at = q_place(b, min(q0 + r, q_last));
            products[r].y += dot(load_dout4(row_at.x, h, row_at.y, d), y);
        }
    }
    return products;
}
