// chunk: the key lies in the chunk of `size` positions that the query's own position lies in.
// slots: [size]

// needs mask/algebra: Tile, hull_of, tile_class
// needs mask/words: slot_i32
// needs sequences/positions: own_position
// offers chunk_hull, chunk_keep, chunk_tile

// Floor division, for own positions before the first key.
fn chunk_of(position: i32, size: i32) -> i32 {
    return select(position / size, (position + 1) / size - 1, position < 0);
}

fn chunk_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let size = slot_i32(slot);
    return chunk_of(i32(kv_idx), size) == chunk_of(own_position(b, q_idx), size);
}

fn chunk_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let size = slot_i32(slot);
    let q_first = chunk_of(own_position(b, tile.q0), size);
    let q_last = chunk_of(own_position(b, tile.q1 - 1u), size);
    let kv_first = chunk_of(i32(tile.kv0), size);
    let kv_last = chunk_of(i32(tile.kv1) - 1, size);
    let some_kept = (q_first <= kv_last) & (kv_first <= q_last);
    return tile_class((q_first == q_last) & (kv_first == kv_last) & (q_first == kv_first), some_kept);
}

fn chunk_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let size = slot_i32(slot);
    let first = chunk_of(own_position(b, q0), size);
    let last = chunk_of(own_position(b, q1 - 1u), size);
    return hull_of(b, first * size, (last + 1) * size - 1);
}
