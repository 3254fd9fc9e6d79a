// dk and dv for CPU adapters, from the cells of a chunk of rows, which the kernel for dq left behind; a lane has ROWS keys to
// itself.
//
//   dv, dk = what the chunks before left, or 0
//   for each query head of the group, in order:
//       for each tile of BLOCK_Q = SUBGROUP_SIZE queries of the chunk that the mask doesn't empty, the last one first:
//           p, ds = its cells times norm        lane: ROWS keys x BLOCK_Q queries
//           dv = dv + p dout,  dk = dk + ds scale q     see cpu/broadcast/sums
//
// 5 products in all where computing s and dp again makes 7. Each key's sums run in one order, however the rows are cut.
// WRITE_DK and WRITE_DV say which of the two are made.

// needs backward/key_block: SKIPPED_RUN, has_no_keys, key_block, q_tile_class, skipped_rows
// needs backward/key_rows_own: gradient_place
// needs bindings: params, row_terms, score_cache
// needs common/problem: linear_workgroup
// needs constants: BLOCK_Q, GROUPS, HEAD_DIM, HEAD_DIM_V, ROWS, SUBGROUP_SIZE
// needs cpu/dkdv: add_columns, end_columns
// needs cpu/prefetch/line: is_unlikely
// needs cpu/score_cache: score_cache_at
// needs mask/algebra: SKIP
// needs rows/: load_dk4, load_dv4
// needs sequences/positions: lse_index
// offers backward_dkdv

// Asks for a tile's cells, as cpu/prefetch/rows does for rows.
fn prefetch_scores(at: u32) -> bool {
    const LINE: u32 = 16u;
    var unlikely = false;
    for (var i = 0u; i < 2u * SUBGROUP_SIZE * SUBGROUP_SIZE; i += LINE) {
        unlikely |= is_unlikely(score_cache[at + i]);
    }
    return unlikely;
}

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
    let first_head = h_kv * params.group_size;

    var dk_rows: array<array<vec4<f32>, HEAD_DIM / 4u>, ROWS>;
    var dv_rows: array<array<vec4<f32>, HEAD_DIM_V / 4u>, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        for (var i = 0u; i < HEAD_DIM / 4u; i += 1u) {
            dk_rows[r][i] = vec4<f32>(0.0);
        }
        for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
            dv_rows[r][i] = vec4<f32>(0.0);
        }
    }
    if ((b * params.num_heads + first_head) * params.q_blocks < params.cells_first_workgroup) {
        for (var r = 0u; r < ROWS; r += 1u) {
            let key = block.kv0 + r * SUBGROUP_SIZE + lane;
            // Beyond the last key there is nothing to read but what another lane writes.
            if (key < block.kv_len) {
                let place = gradient_place(b, key);
                for (var i = 0u; i < HEAD_DIM / 4u; i += 1u) {
                    dk_rows[r][i] = load_dk4(place.x, h_kv, place.y, i * 4u);
                }
                for (var i = 0u; i < HEAD_DIM_V / 4u; i += 1u) {
                    dv_rows[r][i] = load_dv4(place.x, h_kv, place.y, i * 4u);
                }
            }
        }
    }
    let scale = params.scale_abs * params.scale_sign;
    var keeps_nonfinite = false;

    for (var h = first_head; h < first_head + params.group_size; h += 1u) {
        // The head's workgroups of rows, and of these the chunk's; each has GROUPS tiles.
        let head = (b * params.num_heads + h) * params.q_blocks;
        let first = clamp(params.cells_first_workgroup, head, head + params.q_blocks) - head;
        let end = clamp(params.cells_end_workgroup, head, head + params.q_blocks) - head;
        // No zero-iteration loop: see cpu/forward_broadcast.wgsl.
        if (first < end) {
            for (var tile = first * GROUPS; tile < end * GROUPS; tile += 1u) {
                let q0 = (params.q_blocks * GROUPS - 1u - tile) * BLOCK_Q;
                if (q0 >= block.q_len) {
                    continue;
                }
                // Before the first run this wraps around, to no run's start.
                let skipped = skipped_rows(block, h, q0 + BLOCK_Q - SKIPPED_RUN);
                if (skipped != 0u) {
                    tile += skipped / BLOCK_Q - 1u;
                    continue;
                }
                let kind = q_tile_class(block, h, q0);
                if (kind == SKIP) {
                    continue;
                }
                // Were it true, the end would look for numbers that aren't finite and find none.
                let next = min(tile + 1u, end * GROUPS - 1u);
                for (var r = 0u; r < ROWS; r += 1u) {
                    let kv0 = block.kv0 + r * SUBGROUP_SIZE;
                    let at = score_cache_at(head + next / GROUPS, GROUPS - 1u - next % GROUPS, kv0);
                    keeps_nonfinite |= prefetch_scores(at);
                }
                let own_norm = row_terms[lse_index(b, h, min(q0 + lane, block.q_len - 1u))].z;

                var p: array<array<f32, SUBGROUP_SIZE>, ROWS>;
                var ds: array<array<f32, SUBGROUP_SIZE>, ROWS>;
                for (var r = 0u; r < ROWS; r += 1u) {
                    let kv0 = block.kv0 + r * SUBGROUP_SIZE;
                    let at = score_cache_at(head + tile / GROUPS, GROUPS - 1u - tile % GROUPS, kv0) + lane;
                    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
                        let norm = subgroupShuffle(own_norm, j);
                        p[r][j] = score_cache[at + j * SUBGROUP_SIZE] * norm;
                        ds[r][j] = score_cache[at + (SUBGROUP_SIZE + j) * SUBGROUP_SIZE] * (norm * scale);
                    }
                }
                keeps_nonfinite |= add_columns(block, h, q0, kind, lane, &p, &ds, &dk_rows, &dv_rows);
            }
        }
    }

    end_columns(block, lane, &dk_rows, &dv_rows, false, 1.0, keeps_nonfinite);
}
