// dilated, strided: kv_idx - own is a multiple of `step` within [-reach, reach], where own = q_idx + offset.
// slots: [offset; reach; step]

fn dilated_multiple_in(first: i32, last: i32, step: i32) -> bool {
    // The largest multiple that isn't beyond `last`.
    let below = select(last / step, (last + 1) / step - 1, last < 0);
    return (first <= last) & (below * step >= first);
}

fn dilated_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let distance = abs(i32(kv_idx) - (i32(q_idx) + slot_i32(slot)));
    return (distance <= slot_i32(slot + 1u)) & (distance % slot_i32(slot + 2u) == 0);
}

// The tile has every difference from that of its lower left corner to that of its upper right.
fn dilated_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let offset = slot_i32(slot);
    let reach = slot_i32(slot + 1u);
    let step = slot_i32(slot + 2u);
    let least = i32(tile.kv0) - (i32(tile.q1) - 1 + offset);
    let most = i32(tile.kv1) - 1 - (i32(tile.q0) + offset);
    let some_kept = dilated_multiple_in(max(least, -reach), min(most, reach), step);
    let all_kept = (least >= -reach) & (most <= reach) & ((step == 1) | ((least == most) & some_kept));
    return tile_class(all_kept, some_kept);
}

fn dilated_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let offset = slot_i32(slot);
    let reach = slot_i32(slot + 1u);
    return hull_of(i32(q0) + offset - reach, i32(q1) - 1 + offset + reach);
}
