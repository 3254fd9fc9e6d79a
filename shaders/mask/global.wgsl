// global: the key or the query's own position, q_idx + offset, is among the first `tokens`.
// slots: [offset; tokens]

fn global_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let tokens = slot_i32(slot + 1u);
    return (i32(kv_idx) < tokens) | (i32(q_idx) + slot_i32(slot) < tokens);
}

fn global_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let offset = slot_i32(slot);
    let tokens = slot_i32(slot + 1u);
    let all_kept = (i32(tile.kv1) <= tokens) | (i32(tile.q1) + offset <= tokens);
    let some_kept = (i32(tile.kv0) < tokens) | (i32(tile.q0) + offset < tokens);
    return tile_class(all_kept, some_kept);
}

fn global_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let tokens = slot_i32(slot + 1u);
    return select(hull_of(0, tokens - 1), hull_all(), i32(q0) + slot_i32(slot) < tokens);
}
