// not_self: kv_idx != q_idx + offset, where offset leads from a query to its own position.
// slots: [offset]

fn not_self_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return i32(kv_idx) != i32(q_idx) + slot_i32(slot);
}

// The own positions of the rows are [q0 + offset, q1 + offset).
fn not_self_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let first = i32(tile.q0) + slot_i32(slot);
    let last = i32(tile.q1) - 1 + slot_i32(slot);
    let meets = (first < i32(tile.kv1)) & (last >= i32(tile.kv0));
    let single = (tile.q1 - tile.q0 == 1u) & (tile.kv1 - tile.kv0 == 1u);
    return tile_class(!meets, !(meets & single));
}

fn not_self_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all();
}
