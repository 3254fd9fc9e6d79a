// Sequence b has the rows [kv_first[b], kv_lengths[b]) of the seq_len_kv that there is room for.
// kv_lengths: i32 [batch]; kv_first: i32 [batch], zeros without left padding

// needs bindings: mask_words, params
// needs constants: KV_FIRST_SLOT, KV_SEQUENCES_SLOT
// needs mask/words: slot_u32
// offers cache_place, cached_len, given_kv_len, has_places, kv_is_faulty, kv_place, most_cached

// What has been appended, padding included.
fn cached_len(b: u32) -> u32 {
    return min(mask_words[slot_u32(KV_SEQUENCES_SLOT) + b], params.seq_len_kv);
}

fn cached_first(b: u32) -> u32 {
    return min(mask_words[slot_u32(KV_FIRST_SLOT) + b], cached_len(b));
}

// Where the token at a position since the first one lies, or is to be written.
fn cache_place(b: u32, position: u32) -> vec2<u32> {
    return vec2<u32>(b, position);
}

// Whether there is a row for each of the positions [from, to).
fn has_places(b: u32, from_position: u32, to_position: u32) -> bool {
    return true;
}

fn most_cached() -> u32 {
    return params.seq_len_kv;
}

fn given_kv_len(b: u32) -> u32 {
    return cached_len(b) - cached_first(b);
}

fn kv_place(b: u32, kv_idx: u32) -> vec2<u32> {
    return cache_place(b, cached_first(b) + kv_idx);
}

fn kv_is_faulty(b: u32) -> bool {
    let length = mask_words[slot_u32(KV_SEQUENCES_SLOT) + b];
    return (length > params.seq_len_kv) | (mask_words[slot_u32(KV_FIRST_SLOT) + b] > length);
}
