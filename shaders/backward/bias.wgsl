// dbias, of the bias's own sizes: the gradient of the modified scores, summed along what the bias is broadcast over.
//
//   dbias[b', h', q', kv_idx] = sum over the (b, h, q_idx) that read it of exp(s - lse) (dp - delta)
//
// An invocation has one key and TILE_ROWS rows of the bias, or all rows where it has one for all: it reads its key and
// its value once for that many queries, which all invocations of a workgroup read together. Where the bias has one element
// for all keys, it has every WORKGROUP_SIZE-th key, and the invocations' sums are added up at the end. Sums run in order,
// in runs of RUN_TILES tiles: a running sum in f32 of n equal terms may be off by n 2^-26 of itself.

// needs backward/: summed_along_keys
// needs backward/cell: cell_of
// needs bindings: params, row_terms
// needs common/problem: element, linear_workgroup
// needs constants: BIAS_SHARED_BY_KEYS, BIAS_SHARED_BY_ROWS, TILE_ROWS, WORKGROUP_SIZE
// needs generated: mask_keep, mask_tile_closed
// needs mask/algebra: SKIP, Tile
// needs rows/: load_dout4, load_k4, load_q4, load_v4, write_dbias
// needs sequences/: kv_len, kv_place, q_len, q_place
// needs sequences/positions: lse_index
// offers backward_bias

const RUN_TILES: u32 = 512u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_bias(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    // [batch|1, num_heads|1, blocks of rows|1, blocks of keys|1]
    let index = linear_workgroup(workgroup, workgroups);
    let key_blocks = select((params.seq_len_kv + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE, 1u, BIAS_SHARED_BY_KEYS);
    let row_tiles = (params.seq_len_q + TILE_ROWS - 1u) / TILE_ROWS;
    let row_blocks = select(row_tiles, 1u, BIAS_SHARED_BY_ROWS);
    let kv_begin = index % key_blocks * WORKGROUP_SIZE;
    let kv_end = select(kv_begin + 1u, params.seq_len_kv, BIAS_SHARED_BY_KEYS);
    let row_block = index / key_blocks % row_blocks;
    let head_index = index / key_blocks / row_blocks;
    let bias_heads = select(1u, params.num_heads, params.bias_strides.y != 0u);
    let bias_batch = select(1u, params.batch, params.bias_strides.x != 0u);
    if (index >= params.end_workgroup) {
        return;
    }
    let bias_h = head_index % bias_heads;
    let bias_b = head_index / bias_heads;

    var sums: array<f32, TILE_ROWS>;
    var run_sums: array<f32, TILE_ROWS>;
    for (var r = 0u; r < TILE_ROWS; r += 1u) {
        sums[r] = 0.0;
        run_sums[r] = 0.0;
    }
    var run_tiles = 0u;
    let b_end = select(params.batch, bias_b + 1u, bias_batch > 1u);
    let h_end = select(params.num_heads, bias_h + 1u, bias_heads > 1u);
    let q_begin = row_block * TILE_ROWS;
    let q_end = select(min(q_begin + TILE_ROWS, params.seq_len_q), params.seq_len_q, BIAS_SHARED_BY_ROWS);
    for (var b = bias_b; b < b_end; b += 1u) {
        for (var h = bias_h; h < h_end; h += 1u) {
            for (var q0 = q_begin; q0 < q_end; q0 += TILE_ROWS) {
                for (var kv0 = kv_begin; kv0 < kv_end; kv0 += WORKGROUP_SIZE) {
                    // Where the sequence ends before the tile, there is none.
                    if (q0 >= q_len(b) || kv0 >= kv_len(b)) {
                        continue;
                    }
                    let tile = Tile(q0, min(q0 + TILE_ROWS, q_len(b)), kv0, min(kv0 + WORKGROUP_SIZE, kv_len(b)));
                    if (mask_tile_closed(b, h, tile) == SKIP) {
                        continue;
                    }
                    let own_key = min(kv0 + invocation, kv_len(b) - 1u);
                    let key_at = kv_place(b, own_key);
                    let q_last = q_len(b) - 1u;
                    var s: array<f32, TILE_ROWS>;
                    var dp: array<f32, TILE_ROWS>;
                    for (var r = 0u; r < TILE_ROWS; r += 1u) {
                        s[r] = 0.0;
                        dp[r] = 0.0;
                    }
                    for (var d = 0u; d < params.head_dim; d += 4u) {
                        let y = load_k4(key_at.x, h / params.group_size, key_at.y, d);
                        for (var r = 0u; r < TILE_ROWS; r += 1u) {
                            let row_at = q_place(b, min(q0 + r, q_last));
                            let x = load_q4(row_at.x, h, row_at.y, d);
                            s[r] = fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, s[r]))));
                        }
                    }
                    for (var d = 0u; d < params.head_dim_v; d += 4u) {
                        let y = load_v4(key_at.x, h / params.group_size, key_at.y, d);
                        for (var r = 0u; r < TILE_ROWS; r += 1u) {
                            let row_at = q_place(b, min(q0 + r, q_last));
                            let x = load_dout4(row_at.x, h, row_at.y, d);
                            dp[r] = fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, dp[r]))));
                        }
                    }
                    for (var r = 0u; r < TILE_ROWS; r += 1u) {
                        let q_idx = min(q0 + r, q_last);
                        let row = row_terms[lse_index(b, h, q_idx)];
                        let dbias = cell_of(s[r], dp[r], row, b, h, q_idx, own_key).dbias;
                        let keep = mask_keep(b, h, q_idx, own_key) & (q0 + r <= q_last) & (kv0 + invocation < kv_len(b));
                        run_sums[r] += select(0.0, dbias, keep);
                    }
                    run_tiles += 1u;
                    if (run_tiles == RUN_TILES) {
                        for (var r = 0u; r < TILE_ROWS; r += 1u) {
                            sums[r] += run_sums[r];
                            run_sums[r] = 0.0;
                        }
                        run_tiles = 0u;
                    }
                }
            }
        }
    }
    for (var r = 0u; r < TILE_ROWS; r += 1u) {
        sums[r] += run_sums[r];
    }
    if (BIAS_SHARED_BY_ROWS) {
        for (var r = 1u; r < TILE_ROWS; r += 1u) {
            sums[0] += sums[r];
        }
    }
    sums = summed_along_keys(sums, invocation);
    // Who writes: where the keys share an element, the first.
    let kv_idx = kv_begin + invocation;
    if (select(kv_idx >= params.seq_len_kv, invocation != 0u, BIAS_SHARED_BY_KEYS)) {
        return;
    }
    let rows = select(min(TILE_ROWS, params.seq_len_q - q_begin), 1u, BIAS_SHARED_BY_ROWS);
    for (var r = 0u; r < rows; r += 1u) {
        write_dbias(element(params.bias_strides, params.bias_base, bias_b, bias_h, q_begin + r, kv_idx), sums[r]);
    }
}
