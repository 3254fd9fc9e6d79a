// documents: document_ids_q[b, q_idx] == document_ids_kv[b, kv_idx]. Its tiles are classed by the tile map.
// slots: [where the queries' ids lie, i32 [batch, seq_len_q]; where the keys' ids lie, i32 [batch, seq_len_kv]]

fn documents_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let document_q = mask_words[slot_u32(slot) + b * params.seq_len_q + q_idx];
    let document_kv = mask_words[slot_u32(slot + 1u) + b * params.seq_len_kv + kv_idx];
    return document_q == document_kv;
}

fn documents_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    return PARTIAL;
}

fn documents_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
