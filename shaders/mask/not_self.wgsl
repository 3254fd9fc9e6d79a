// not_self: every key but the query's own position.
// slots: none

// needs mask/algebra: Tile, hull_all, tile_class
// needs sequences/positions: own_position
// offers not_self_hull, not_self_keep, not_self_tile

fn not_self_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return i32(kv_idx) != own_position(b, q_idx);
}

fn not_self_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let first = own_position(b, tile.q0);
    let last = own_position(b, tile.q1 - 1u);
    let meets = (first < i32(tile.kv1)) & (last >= i32(tile.kv0));
    let single = (tile.q1 - tile.q0 == 1u) & (tile.kv1 - tile.kv0 == 1u);
    return tile_class(!meets, !(meets & single));
}

fn not_self_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
