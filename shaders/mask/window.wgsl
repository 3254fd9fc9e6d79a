// window: own + first <= kv_idx <= own + last. An open end lies 2^30 away, beyond every position.
// slots: [first, last]

// needs mask/algebra: Tile, hull_of, tile_class
// needs mask/words: slot_i32
// needs sequences/positions: own_position
// offers window_hull, window_keep, window_tile

fn window_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let relative = i32(kv_idx) - own_position(b, q_idx);
    return (relative >= slot_i32(slot)) & (relative <= slot_i32(slot + 1u));
}

// relative = kv_idx - own takes every value from that of the lower left corner to that of the upper right.
fn window_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let first = slot_i32(slot);
    let last = slot_i32(slot + 1u);
    let least = i32(tile.kv0) - own_position(b, tile.q1 - 1u);
    let most = i32(tile.kv1) - 1 - own_position(b, tile.q0);
    return tile_class((least >= first) & (most <= last), (most >= first) & (least <= last) & (first <= last));
}

fn window_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_of(b, own_position(b, q0) + slot_i32(slot), own_position(b, q1 - 1u) + slot_i32(slot + 1u));
}
