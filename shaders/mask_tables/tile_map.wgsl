// The classes of all tiles, where some leaf of the mask has no closed form: [mask_batch, mask_heads, rows of tiles,
// row words], 2 bits each. What the closed forms leave PARTIAL is looked at cell by cell, so the map is exact.
//
// A workgroup makes one word, 16 tiles: the first 16 invocations class a tile each, then invocation (part, tile) looks at
// every PARTS-th row of a tile that is left PARTIAL. `classes` and `seen` are written by their tile's first invocation,
// and read or added to by others after a barrier.

// needs bindings: mask_words, params
// needs common/problem: linear_workgroup
// needs constants: BLOCK_KV, BLOCK_Q, PARTS
// needs generated: mask_keep, mask_tile_closed
// needs mask/algebra: PARTIAL, SKIP, Tile, tile_class
// needs sequences/: kv_len, q_len
// offers tile_map

const TILES: u32 = 16u;
const NONE_SEEN: u32 = 0u;
const KEPT_SEEN: u32 = 1u;
const MASKED_SEEN: u32 = 2u;
const BOTH_SEEN: u32 = 3u;

// Per tile: its class by the closed forms.
var<workgroup> classes: array<u32, TILES>;
// Per tile: which of KEPT_SEEN and MASKED_SEEN its cells have.
var<workgroup> seen: array<atomic<u32>, TILES>;

@compute @workgroup_size(TILES * PARTS)
fn tile_map(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let word = linear_workgroup(workgroup, workgroups);
    let row_words = params.tile_map_row_words;
    let rows = params.tile_map_rows;
    if (word >= params.end_workgroup) {
        return;
    }
    let tile_row = word / row_words % rows;
    let h = word / row_words / rows % params.mask_heads;
    let b = word / row_words / rows / params.mask_heads;

    let own = invocation % TILES;
    let q0 = tile_row * BLOCK_Q;
    let kv0 = (word % row_words * TILES + own) * BLOCK_KV;
    let tile = Tile(q0, min(q0 + BLOCK_Q, q_len(b)), kv0, min(kv0 + BLOCK_KV, kv_len(b)));
    if (invocation < TILES) {
        classes[own] = SKIP;
        if (q0 < q_len(b) && kv0 < kv_len(b)) {
            classes[own] = mask_tile_closed(b, h, tile);
        }
        atomicStore(&seen[own], NONE_SEEN);
    }
    workgroupBarrier();

    if (classes[own] == PARTIAL) {
        var found = NONE_SEEN;
        for (var q_idx = tile.q0 + invocation / TILES; q_idx < tile.q1 && found != BOTH_SEEN; q_idx += PARTS) {
            for (var kv_idx = tile.kv0; kv_idx < tile.kv1; kv_idx += 1u) {
                found |= select(MASKED_SEEN, KEPT_SEEN, mask_keep(b, h, q_idx, kv_idx));
            }
        }
        atomicOr(&seen[own], found);
    }
    workgroupBarrier();

    if (invocation == 0u) {
        var map_word = 0u;
        for (var i = 0u; i < TILES; i += 1u) {
            var kind = classes[i];
            if (kind == PARTIAL) {
                let found = atomicLoad(&seen[i]);
                kind = tile_class(found == KEPT_SEEN, (found & KEPT_SEEN) != 0u);
            }
            map_word |= kind << (i * 2u);
        }
        mask_words[mask_words[0] + word] = map_word;
    }
}
