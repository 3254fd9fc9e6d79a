// ALiBi (arXiv 2108.12409): a penalty that grows with the distance from the query's own position, by a slope per head.
// slots: [where the slopes lie, f32 [num_heads]]

fn alibi_score(score: f32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
    let slope = bitcast<f32>(mask_words[slot_u32(ALIBI_SLOT) + h]);
    let own = i32(q_idx + params.seq_len_kv) - i32(params.seq_len_q);
    return score - slope * f32(abs(own - i32(kv_idx)));
}
