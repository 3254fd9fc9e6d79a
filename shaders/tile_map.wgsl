// The classes of all tiles, where some leaf of the mask has no closed form: [mask_batch, mask_heads, rows of tiles,
// row words], 2 bits each. What the closed forms leave PARTIAL is looked at cell by cell, so the map is exact.
//
// A workgroup makes one word, 16 tiles: invocation (part, tile) looks at every PARTS-th row of its tile.

const TILES: u32 = 16u;
const PARTS: u32 = WORKGROUP_SIZE / TILES;
const NONE_SEEN: u32 = 0u;
const KEPT_SEEN: u32 = 1u;
const MASKED_SEEN: u32 = 2u;
const BOTH_SEEN: u32 = 3u;

// Per tile: which of KEPT_SEEN and MASKED_SEEN its cells have.
var<workgroup> seen: array<atomic<u32>, TILES>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn tile_map(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let word = linear_workgroup(workgroup, workgroups);
    let row_words = params.tile_map_row_words;
    let rows = params.tile_map_rows;
    if (word >= params.mask_batch * params.mask_heads * rows * row_words) {
        return;
    }
    let tile_row = word / row_words % rows;
    let h = word / row_words / rows % params.mask_heads;
    let b = word / row_words / rows / params.mask_heads;

    if (invocation < TILES) {
        atomicStore(&seen[invocation], NONE_SEEN);
    }
    workgroupBarrier();

    let own = invocation % TILES;
    let kv0 = (word % row_words * TILES + own) * BLOCK_KV;
    let q0 = tile_row * BLOCK_Q;
    if (q0 < q_len(b) && kv0 < kv_len(b)) {
        let tile = Tile(q0, min(q0 + BLOCK_Q, q_len(b)), kv0, min(kv0 + BLOCK_KV, kv_len(b)));
        let kind = mask_tile_closed(b, h, tile);
        var found = select(select(NONE_SEEN, MASKED_SEEN, kind == SKIP), KEPT_SEEN, kind == FULL);
        if (kind == PARTIAL) {
            for (var q_idx = tile.q0 + invocation / TILES; q_idx < tile.q1 && found != BOTH_SEEN; q_idx += PARTS) {
                for (var kv_idx = tile.kv0; kv_idx < tile.kv1; kv_idx += 1u) {
                    found |= select(MASKED_SEEN, KEPT_SEEN, mask_keep(b, h, q_idx, kv_idx));
                }
            }
        }
        atomicOr(&seen[own], found);
    }
    workgroupBarrier();

    if (invocation == 0u) {
        var classes = 0u;
        for (var i = 0u; i < TILES; i += 1u) {
            let found = atomicLoad(&seen[i]);
            let kind = tile_class(found == KEPT_SEEN, (found & KEPT_SEEN) != 0u);
            classes |= kind << (i * 2u);
        }
        mask_words[mask_words[0] + word] = classes;
    }
}
