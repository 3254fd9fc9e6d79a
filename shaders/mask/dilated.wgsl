// dilated, strided: kv_idx - own is a multiple of `step` within [-reach, reach].
// slots: [reach; step]

// needs mask/algebra: Tile, hull_of, tile_class
// needs mask/words: slot_i32
// needs sequences/positions: own_position
// offers dilated_hull, dilated_keep, dilated_tile

fn dilated_multiple_in(first: i32, last: i32, step: i32) -> bool {
    // The largest multiple that isn't beyond `last`.
    let below = select(last / step, (last + 1) / step - 1, last < 0);
    return (first <= last) & (below * step >= first);
}

fn dilated_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let distance = abs(i32(kv_idx) - own_position(b, q_idx));
    return (distance <= slot_i32(slot)) & (distance % slot_i32(slot + 1u) == 0);
}

// The tile has every difference from that of its lower left corner to that of its upper right.
fn dilated_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let reach = slot_i32(slot);
    let step = slot_i32(slot + 1u);
    let least = i32(tile.kv0) - own_position(b, tile.q1 - 1u);
    let most = i32(tile.kv1) - 1 - own_position(b, tile.q0);
    let some_kept = dilated_multiple_in(max(least, -reach), min(most, reach), step);
    let all_kept = (least >= -reach) & (most <= reach) & ((step == 1) | ((least == most) & some_kept));
    return tile_class(all_kept, some_kept);
}

fn dilated_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let reach = slot_i32(slot);
    return hull_of(b, own_position(b, q0) - reach, own_position(b, q1 - 1u) + reach);
}
