// The classes that a forward kernel sees, one u32 per tile: [mask_batch, mask_heads, rows of tiles, tiles in a row].
// Tiles outside the hull of their rows or beyond the end of their sequence aren't visited, so they count as SKIP.
//
// One invocation per tile.

// needs bindings: output, params
// needs common/problem: linear_workgroup
// needs constants: BLOCK_KV, BLOCK_Q, WORKGROUP_SIZE
// needs generated: mask_hull
// needs mask/algebra: SKIP, Tile
// needs mask_tables/: mask_tile
// needs sequences/: kv_len, q_len
// offers tile_classes

@compute @workgroup_size(WORKGROUP_SIZE)
fn tile_classes(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let tiles = (params.seq_len_kv + BLOCK_KV - 1u) / BLOCK_KV;
    let rows = params.q_blocks;
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    if (number >= params.end_workgroup || index >= params.mask_batch * params.mask_heads * rows * tiles) {
        return;
    }
    let kv0 = index % tiles * BLOCK_KV;
    let q0 = index / tiles % rows * BLOCK_Q;
    let h = index / tiles / rows % params.mask_heads;
    let b = index / tiles / rows / params.mask_heads;
    if (q0 >= q_len(b) || kv0 >= kv_len(b)) {
        output[index - params.output_base] = SKIP;
        return;
    }
    let tile = Tile(q0, min(q0 + BLOCK_Q, q_len(b)), kv0, min(kv0 + BLOCK_KV, kv_len(b)));
    let hull = mask_hull(b, h, tile.q0, tile.q1);
    let visited = (tile.kv0 < hull.y) & (tile.kv1 > hull.x);
    output[index - params.output_base] = select(SKIP, mask_tile(b, h, tile), visited);
}
