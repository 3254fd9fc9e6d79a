// The keys of all sequences lie one behind the other: sequence b has the rows [kv_starts[b], kv_starts[b + 1]).
// kv_starts: i32 [batch + 1]

// needs bindings: mask_words, params
// needs constants: KV_SEQUENCES_SLOT
// needs mask/words: slot_u32
// offers given_kv_len, kv_is_faulty, kv_place

fn kv_start(b: u32) -> u32 {
    return min(mask_words[slot_u32(KV_SEQUENCES_SLOT) + b], params.kv_rows);
}

fn given_kv_len(b: u32) -> u32 {
    return kv_start(b + 1u) - kv_start(b);
}

fn kv_place(b: u32, kv_idx: u32) -> vec2<u32> {
    return vec2<u32>(0u, kv_start(b) + kv_idx);
}

// Starts that fall, that lead beyond the rows, or that lie too far apart.
fn kv_is_faulty(b: u32) -> bool {
    let start = mask_words[slot_u32(KV_SEQUENCES_SLOT) + b];
    let end = mask_words[slot_u32(KV_SEQUENCES_SLOT) + b + 1u];
    return (start > end) | (end > params.kv_rows) | (end - start > params.seq_len_kv);
}
