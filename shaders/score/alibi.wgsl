// ALiBi (arXiv 2108.12409): a penalty that grows with the distance from the query's own position, by a slope per head.
// slots: [where the slopes lie, f32 [num_heads] or [batch, num_heads]; words from one sequence's to the next's]

// needs bindings: mask_words
// needs constants: ALIBI_SLOT, ALIBI_STRIDE_SLOT
// needs mask/words: slot_u32
// needs sequences/positions: own_position
// offers alibi_score

fn alibi_score(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
    let slope = bitcast<f32>(mask_words[slot_u32(ALIBI_SLOT) + b * slot_u32(ALIBI_STRIDE_SLOT) + h]);
    return score - slope * f32(abs(own_position(b, q_idx) - i32(kv_idx)));
}
