// self_only_if_alone: what `inner` keeps, the own position q_idx + offset only in rows where it keeps nothing else.
// Which rows those are is found by rows_alone.wgsl before the first use.
// slots: [offset; where the rows' flags lie, u32 [batch|1, num_heads|1, seq_len_q];
//         words from one sequence and head to the next, 0 where the rows are the same]

fn self_only_if_alone_row(slot: u32, b: u32, h: u32, q_idx: u32) -> u32 {
    return slot_u32(slot + 1u) + b * slot_u32(slot + 2u) + h * slot_u32(slot + 3u) + q_idx;
}

fn self_only_if_alone_own(slot: u32, q_idx: u32) -> i32 {
    return i32(q_idx) + slot_i32(slot);
}

fn self_only_if_alone_keep(slot: u32, inner: bool, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let alone = mask_words[self_only_if_alone_row(slot, b, h, q_idx)] != 0u;
    return inner & ((i32(kv_idx) != self_only_if_alone_own(slot, q_idx)) | alone);
}

fn self_only_if_alone_tile(slot: u32, inner: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let first = self_only_if_alone_own(slot, tile.q0);
    let last = self_only_if_alone_own(slot, tile.q1 - 1u);
    let meets = (first < i32(tile.kv1)) & (last >= i32(tile.kv0));
    return select(inner, min(inner, PARTIAL), meets);
}
