// global: the key or the query's own position is among the first `tokens`.
// slots: [tokens]

// needs mask/algebra: Tile, hull_all, hull_of, tile_class
// needs mask/words: slot_i32
// needs sequences/positions: own_position
// offers global_hull, global_keep, global_tile

fn global_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let tokens = slot_i32(slot);
    return (i32(kv_idx) < tokens) | (own_position(b, q_idx) < tokens);
}

fn global_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let tokens = slot_i32(slot);
    let all_kept = (i32(tile.kv1) <= tokens) | (own_position(b, tile.q1 - 1u) < tokens);
    let some_kept = (i32(tile.kv0) < tokens) | (own_position(b, tile.q0) < tokens);
    return tile_class(all_kept, some_kept);
}

fn global_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let tokens = slot_i32(slot);
    return select(hull_of(b, 0, tokens - 1), hull_all(b), own_position(b, q0) < tokens);
}
