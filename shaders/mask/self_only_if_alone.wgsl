// self_only_if_alone: what `inner` keeps, the own position only in rows where it keeps nothing else.
// Which rows those are is found by mask_tables/rows_alone.wgsl before the first use.
// slots: [where the rows' flags lie, u32 [batch|1, num_heads|1, seq_len_q];
//         words from one sequence and head to the next, 0 where the rows are the same]

// needs bindings: mask_words
// needs mask/algebra: PARTIAL, Tile
// needs mask/words: slot_u32
// needs sequences/positions: own_position
// offers self_only_if_alone_keep, self_only_if_alone_row, self_only_if_alone_tile

fn self_only_if_alone_row(slot: u32, b: u32, h: u32, q_idx: u32) -> u32 {
    return slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u) + q_idx;
}

fn self_only_if_alone_keep(slot: u32, inner: bool, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let alone = mask_words[self_only_if_alone_row(slot, b, h, q_idx)] != 0u;
    return inner & ((i32(kv_idx) != own_position(b, q_idx)) | alone);
}

fn self_only_if_alone_tile(slot: u32, inner: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let first = own_position(b, tile.q0);
    let last = own_position(b, tile.q1 - 1u);
    let meets = (first < i32(tile.kv1)) & (last >= i32(tile.kv0));
    return select(inner, min(inner, PARTIAL), meets);
}
