// key_padding: key_padding[b, kv_idx] != 0. Its tiles are classed by the tile map.
// slots: [where the flags lie, u32 [batch, seq_len_kv]]

// needs bindings: mask_words, params
// needs mask/algebra: Tile, hull_all, tile_class
// needs mask/words: slot_u32
// offers key_padding_hull, key_padding_tile

fn key_padding_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return mask_words[slot_u32(slot) + b * params.seq_len_kv + kv_idx] != 0u;
}

fn key_padding_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    var all_kept = true;
    var some_kept = false;
    for (var kv_idx = tile.kv0; kv_idx < tile.kv1; kv_idx += 1u) {
        let keep = key_padding_keep(slot, b, h, tile.q0, kv_idx);
        all_kept &= keep;
        some_kept |= keep;
    }
    return tile_class(all_kept, some_kept);
}

fn key_padding_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
