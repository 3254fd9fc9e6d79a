// key_lengths, prefix: kv_idx < length[b].
// slots: [where the lengths lie, i32 [batch]]

// needs bindings: mask_words
// needs mask/algebra: Tile, tile_class
// needs mask/words: slot_u32
// needs sequences/lengths_uniform: kv_len
// offers leading_keys_hull, leading_keys_keep, leading_keys_tile

fn leading_keys_length(slot: u32, b: u32) -> u32 {
    return u32(max(bitcast<i32>(mask_words[slot_u32(slot) + b]), 0));
}

fn leading_keys_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return kv_idx < leading_keys_length(slot, b);
}

fn leading_keys_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let length = leading_keys_length(slot, b);
    return tile_class(tile.kv1 <= length, tile.kv0 < length);
}

fn leading_keys_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return vec2<u32>(0u, min(leading_keys_length(slot, b), kv_len(b)));
}
