// As `sequences_check` wrote them: u32 [batch, 2], queries and keys.

// needs bindings: mask_words
// needs constants: LENGTHS_SLOT
// needs mask/words: slot_u32
// offers kv_len, q_len

fn q_len(b: u32) -> u32 {
    return mask_words[slot_u32(LENGTHS_SLOT) + 2u * b];
}

fn kv_len(b: u32) -> u32 {
    return mask_words[slot_u32(LENGTHS_SLOT) + 2u * b + 1u];
}
