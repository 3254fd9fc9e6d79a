// key_padding: key_padding[b, kv_idx] != 0. Its tiles are classed by bounds of the flags.
// slots: [where the flags lie, u32 [batch, seq_len_kv]]

// needs bindings: mask_words, params
// needs mask/algebra: Tile, hull_all, tile_class
// needs mask/words: slot_u32
// needs mask_tables/: words_range
// offers key_padding_hull, key_padding_keep, key_padding_tile

fn key_padding_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return mask_words[slot_u32(slot) + b * params.seq_len_kv + kv_idx] != 0u;
}

fn key_padding_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let flags = slot_u32(slot) + b * params.seq_len_kv;
    let range = words_range(flags + tile.kv0, flags + tile.kv1, 1u);
    return tile_class((range.x > 0) | (range.y < 0), (range.x != 0) | (range.y != 0));
}

fn key_padding_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
