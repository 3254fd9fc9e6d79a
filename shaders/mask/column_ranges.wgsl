// column_ranges (FlashMask, arXiv 2410.01359): each key column masks rows, from `start` below and from `start` above the
// diagonal. Its tiles are classed by the tile map.
//
//   form   bounds of a column                        masked rows
//   1      start                                     [start, seq_len_q)
//   2      start, end                                [start, end)
//   3      start below, end above (bidirectional)    [start, seq_len_q) and [0, end)
//   4      start, end, start above, end above        both ranges
//
// slots: [where the bounds lie, i32 [batch, num_heads|1, seq_len_kv, 1, 2 or 4]; words from one sequence and head to the
//         next, 0 where the heads share them; form]

// needs bindings: params
// needs mask/algebra: Tile, hull_all, tile_class
// needs mask/words: slot_i32, slot_u32
// offers column_ranges_hull, column_ranges_keep, column_ranges_tile

struct MaskedRows {
    // [start, end), empty where the column has none.
    below: vec2<i32>,
    above: vec2<i32>,
}

fn column_ranges_of(slot: u32, b: u32, h: u32, kv_idx: u32) -> MaskedRows {
    let form = slot_u32(slot + 3u);
    let bounds = select(form, 2u, form == 3u);
    let at = slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u) + kv_idx * bounds;
    let start = slot_i32(at);
    let second = slot_i32(at + min(1u, bounds - 1u));
    let end = select(i32(params.seq_len_q), second, (form == 2u) | (form == 4u));
    let start_above = select(0, slot_i32(at + min(2u, bounds - 1u)), form == 4u);
    let end_above = select(second, slot_i32(at + min(3u, bounds - 1u)), form == 4u);
    return MaskedRows(vec2<i32>(start, end), vec2<i32>(start_above, select(start_above, end_above, form >= 3u)));
}

fn column_ranges_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let masked = column_ranges_of(slot, b, h, kv_idx);
    let row = i32(q_idx);
    let below = (row >= masked.below.x) & (row < masked.below.y);
    let above = (row >= masked.above.x) & (row < masked.above.y);
    return !(below | above);
}

fn column_ranges_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let q0 = i32(tile.q0);
    let q1 = i32(tile.q1);
    var all_kept = true;
    var some_kept = false;
    for (var kv_idx = tile.kv0; kv_idx < tile.kv1; kv_idx += 1u) {
        let masked = column_ranges_of(slot, b, h, kv_idx);
        let below = masked.below;
        let above = masked.above;
        let meets_below = max(below.x, q0) < min(below.y, q1);
        let meets_above = max(above.x, q0) < min(above.y, q1);
        let fills = ((below.x <= q0) & (below.y >= q1)) | ((above.x <= q0) & (above.y >= q1));
        all_kept &= !(meets_below | meets_above);
        some_kept |= !fills;
    }
    return tile_class(all_kept, some_kept);
}

fn column_ranges_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
