// dense: bit kv_idx of row [b, h, q_idx]. Its tiles are classed by the tile map.
// slots: [where the rows lie, u32 [batch|1, num_heads|1, seq_len_q|1, ceil(seq_len_kv / 32)];
//         words from one sequence, head and query to the next, 0 where broadcast]

fn dense_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let row = slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u) + q_idx * slot_u32(slot + 3u);
    return ((mask_words[row + kv_idx / 32u] >> (kv_idx % 32u)) & 1u) == 1u;
}

fn dense_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    return PARTIAL;
}

fn dense_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
