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

fn column_ranges_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let form = slot_u32(slot + 3u);
    let bounds = select(form, 2u, form == 3u);
    let at = slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u) + kv_idx * bounds;
    let row = i32(q_idx);
    let start = bitcast<i32>(mask_words[at]);
    let second = bitcast<i32>(mask_words[at + min(1u, bounds - 1u)]);
    let end = select(i32(params.seq_len_q), second, (form == 2u) | (form == 4u));
    let start_above = select(0, bitcast<i32>(mask_words[at + min(2u, bounds - 1u)]), form == 4u);
    let end_above = select(second, bitcast<i32>(mask_words[at + min(3u, bounds - 1u)]), form == 4u);
    let below = (row >= start) & (row < end);
    let above = (form >= 3u) & (row >= start_above) & (row < end_above);
    return !(below | above);
}

fn column_ranges_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    return PARTIAL;
}

fn column_ranges_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
