// token_padding: token_ids[b, kv_idx] != pad_id. Its tiles are classed by bounds of the ids.
// slots: [where the ids lie, i32 [batch, seq_len_kv]; where the pad id lies, i32 [1]]

// needs bindings: mask_words, params
// needs mask/algebra: Tile, hull_all, tile_class
// needs mask/words: slot_i32, slot_u32
// needs mask_tables/: words_range
// offers token_padding_hull, token_padding_keep, token_padding_tile

fn token_padding_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let token_id = mask_words[slot_u32(slot) + b * params.seq_len_kv + kv_idx];
    let pad_id = mask_words[slot_u32(slot + 1u)];
    return token_id != pad_id;
}

fn token_padding_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let ids = slot_u32(slot) + b * params.seq_len_kv;
    let range = words_range(ids + tile.kv0, ids + tile.kv1, 1u);
    let pad_id = slot_i32(slot_u32(slot + 1u));
    return tile_class((range.x > pad_id) | (range.y < pad_id), (range.x != pad_id) | (range.y != pad_id));
}

fn token_padding_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
