// block_bidirectional: query and key lie in the same block; a negative id lies in none. Its tiles are classed by
// bounds of the ids.
// slots: [where the queries' ids lie, i32 [batch, seq_len_q]; where the keys' ids lie, i32 [batch, seq_len_kv]]

// needs bindings: mask_words, params
// needs mask/algebra: Tile, hull_all, tile_class
// needs mask/words: slot_u32
// needs mask_tables/: words_range
// offers block_bidirectional_hull, block_bidirectional_keep, block_bidirectional_tile

fn block_bidirectional_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let block_q = bitcast<i32>(mask_words[slot_u32(slot) + b * params.seq_len_q + q_idx]);
    let block_kv = bitcast<i32>(mask_words[slot_u32(slot + 1u) + b * params.seq_len_kv + kv_idx]);
    return (block_q == block_kv) & (block_q >= 0);
}

fn block_bidirectional_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let ids_q = slot_u32(slot) + b * params.seq_len_q;
    let ids_kv = slot_u32(slot + 1u) + b * params.seq_len_kv;
    let q = words_range(ids_q + tile.q0, ids_q + tile.q1, 1u);
    let kv = words_range(ids_kv + tile.kv0, ids_kv + tile.kv1, 1u);
    let same = (q.x == kv.y) & (q.y == kv.x);
    let meet = (q.x <= kv.y) & (q.y >= kv.x);
    return tile_class(same & (q.x >= 0), meet & (min(q.y, kv.y) >= 0));
}

fn block_bidirectional_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
