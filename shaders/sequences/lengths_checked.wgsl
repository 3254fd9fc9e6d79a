// As `sequences_check` wrote them: u32 [batch, 2], queries and keys.

fn q_len(b: u32) -> u32 {
    return mask_words[slot_u32(LENGTHS_SLOT) + 2u * b];
}

fn kv_len(b: u32) -> u32 {
    return mask_words[slot_u32(LENGTHS_SLOT) + 2u * b + 1u];
}
