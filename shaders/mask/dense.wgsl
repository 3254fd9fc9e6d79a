// dense: bit kv_idx of row [b, h, q_idx]. Its tiles are classed by the tile map.
// slots: [where the rows lie, u32 [batch|1, num_heads|1, seq_len_q|1, ceil(seq_len_kv / 32)];
//         words from one sequence, head and query to the next, 0 where broadcast]

// needs bindings: mask_words
// needs mask/algebra: Tile, hull_all, tile_class
// needs mask/words: slot_u32
// offers dense_hull, dense_keep, dense_tile

fn dense_row(slot: u32, b: u32, h: u32, q_idx: u32) -> u32 {
    return slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u) + q_idx * slot_u32(slot + 3u);
}

fn dense_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let row = dense_row(slot, b, h, q_idx);
    return ((mask_words[row + kv_idx / 32u] >> (kv_idx % 32u)) & 1u) == 1u;
}

fn dense_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    var all_kept = true;
    var some_kept = false;
    for (var q_idx = tile.q0; q_idx < tile.q1; q_idx += 1u) {
        let row = dense_row(slot, b, h, q_idx);
        for (var word = tile.kv0 / 32u; word * 32u < tile.kv1; word += 1u) {
            let first = max(tile.kv0, word * 32u) - word * 32u;
            let end = min(tile.kv1 - word * 32u, 32u);
            let inside = (0xffffffffu >> (32u - (end - first))) << first;
            let kept = mask_words[row + word] & inside;
            all_kept &= kept == inside;
            some_kept |= kept != 0u;
        }
    }
    return tile_class(all_kept, some_kept);
}

fn dense_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
