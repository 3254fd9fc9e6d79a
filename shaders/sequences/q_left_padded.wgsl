// Sequence b has the last q_lengths[b] of its seq_len_q rows.
// q_lengths: i32 [batch]

// needs bindings: mask_words, params
// needs constants: Q_SEQUENCES_SLOT
// needs mask/words: slot_u32
// needs sequences/lengths_checked: q_len
// offers given_q_len, q_is_faulty, q_place

fn given_q_len(b: u32) -> u32 {
    return mask_words[slot_u32(Q_SEQUENCES_SLOT) + b];
}

fn q_place(b: u32, q_idx: u32) -> vec2<u32> {
    return vec2<u32>(b, params.seq_len_q - q_len(b) + q_idx);
}

fn q_is_faulty(b: u32) -> bool {
    return given_q_len(b) > params.seq_len_q;
}
