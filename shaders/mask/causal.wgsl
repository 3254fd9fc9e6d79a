// causal: kv_idx <= q_idx + offset.
// slots: [offset]

fn causal_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return i32(kv_idx) <= i32(q_idx) + slot_i32(slot);
}

// The first row keeps least, the last row most.
fn causal_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let offset = slot_i32(slot);
    let all_kept = i32(tile.kv1) - 1 <= i32(tile.q0) + offset;
    let some_kept = i32(tile.kv0) <= i32(tile.q1) - 1 + offset;
    return tile_class(all_kept, some_kept);
}

fn causal_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_of(0, i32(q1) - 1 + slot_i32(slot));
}
