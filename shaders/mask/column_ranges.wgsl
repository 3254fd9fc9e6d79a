// column_ranges (FlashMask, arXiv 2410.01359): each key column masks rows, from `start` below and from `start` above the
// diagonal. Its tiles are classed by the least and the greatest of each bound.
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
// needs mask_tables/: words_range
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
    let form = slot_u32(slot + 3u);
    let bounds = select(form, 2u, form == 3u);
    let row = slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u);
    let first = row + tile.kv0 * bounds;
    let end = row + tile.kv1 * bounds;
    let rows = vec2<i32>(i32(tile.q0), i32(tile.q1));
    let none = vec2<i32>(0);
    let start = words_range(first, end, bounds);
    let second = words_range(first + min(1u, bounds - 1u), end, bounds);
    let third = words_range(first + min(2u, bounds - 1u), end, bounds);
    let fourth = words_range(first + min(3u, bounds - 1u), end, bounds);
    let end_below = select(vec2<i32>(i32(params.seq_len_q)), second, (form == 2u) | (form == 4u));
    let start_above = select(none, third, form == 4u);
    let end_above = select(select(none, second, form == 3u), fourth, form == 4u);
    let fills = column_ranges_fill(start, end_below, rows) | column_ranges_fill(start_above, end_above, rows);
    let meets = column_ranges_meet(start, end_below, rows) | column_ranges_meet(start_above, end_above, rows);
    return tile_class(!meets, !fills);
}

// Of ranges from some start to some end, each in [least, greatest]: whether all have all of the rows.
fn column_ranges_fill(starts: vec2<i32>, ends: vec2<i32>, rows: vec2<i32>) -> bool {
    return (starts.y <= rows.x) & (ends.x >= rows.y);
}

// Whether some may have some of the rows.
fn column_ranges_meet(starts: vec2<i32>, ends: vec2<i32>, rows: vec2<i32>) -> bool {
    return (starts.x < rows.y) & (ends.y > rows.x) & (starts.x < ends.y);
}

fn column_ranges_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
