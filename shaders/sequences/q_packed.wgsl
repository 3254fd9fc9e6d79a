// The queries of all sequences lie one behind the other: sequence b has the rows [q_starts[b], q_starts[b + 1]).
// q_starts: i32 [batch + 1]

// needs bindings: mask_words, params
// needs constants: Q_SEQUENCES_SLOT
// needs mask/words: slot_u32
// offers given_q_len, q_is_faulty, q_place

fn q_start(b: u32) -> u32 {
    return min(mask_words[slot_u32(Q_SEQUENCES_SLOT) + b], params.q_rows);
}

fn given_q_len(b: u32) -> u32 {
    return q_start(b + 1u) - q_start(b);
}

fn q_place(b: u32, q_idx: u32) -> vec2<u32> {
    return vec2<u32>(0u, q_start(b) + q_idx);
}

// Starts that fall, that lead beyond the rows, or that lie too far apart.
fn q_is_faulty(b: u32) -> bool {
    let start = mask_words[slot_u32(Q_SEQUENCES_SLOT) + b];
    let end = mask_words[slot_u32(Q_SEQUENCES_SLOT) + b + 1u];
    return (start > end) | (end > params.q_rows) | (end - start > params.seq_len_q);
}
