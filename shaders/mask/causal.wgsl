// causal: kv_idx <= q_idx + offset, where the offset of `causal` is the sequence's diagonal.
// slots: [offset; -1 where the diagonal is added to it, else 0]

// needs mask/algebra: Tile, hull_of, tile_class
// needs mask/words: slot_i32
// needs sequences/positions: diagonal
// offers causal_hull, causal_keep, causal_tile

fn causal_offset(slot: u32, b: u32) -> i32 {
    return slot_i32(slot) + (diagonal(b) & slot_i32(slot + 1u));
}

fn causal_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    return i32(kv_idx) <= i32(q_idx) + causal_offset(slot, b);
}

// The first row keeps least, the last row most.
fn causal_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let offset = causal_offset(slot, b);
    let all_kept = i32(tile.kv1) - 1 <= i32(tile.q0) + offset;
    let some_kept = i32(tile.kv0) <= i32(tile.q1) - 1 + offset;
    return tile_class(all_kept, some_kept);
}

fn causal_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_of(b, 0, i32(q1) - 1 + causal_offset(slot, b));
}
