// Sequence b has the last seq_len_kv of the kv_lengths[b] keys that there have been; key p lies in row p % seq_len_kv.
// kv_lengths: i32 [batch]

// needs bindings: mask_words, params
// needs constants: KV_SEQUENCES_SLOT
// needs mask/words: slot_u32
// needs sequences/lengths_checked: kv_len
// offers cache_place, cached_len, given_kv_len, has_places, kv_is_faulty, kv_place, most_cached, window_row

const MOST_POSITIONS: u32 = 1u << 29u;

// What has been appended, overwritten keys included.
fn cached_len(b: u32) -> u32 {
    return min(mask_words[slot_u32(KV_SEQUENCES_SLOT) + b], MOST_POSITIONS);
}

// Where the token at a position since the first one lies, or is to be written.
fn cache_place(b: u32, position: u32) -> vec2<u32> {
    return vec2<u32>(b, position % params.seq_len_kv);
}

// Whether there is a row for each of the positions [from, to).
fn has_places(b: u32, from_position: u32, to_position: u32) -> bool {
    return true;
}

fn most_cached() -> u32 {
    return MOST_POSITIONS;
}

fn given_kv_len(b: u32) -> u32 {
    return min(cached_len(b), params.seq_len_kv);
}

fn kv_place(b: u32, kv_idx: u32) -> vec2<u32> {
    var place = cache_place(b, cached_len(b) - kv_len(b) + kv_idx);
    {{WINDOW}} place.y = clamp(place.y, params.first_row, params.end_row - 1u);
    return place;
}

{{WINDOW}} // What windows are of: the row.
{{WINDOW}} fn window_row(b: u32, kv_idx: u32) -> u32 {
{{WINDOW}}     return cache_place(b, cached_len(b) - kv_len(b) + kv_idx).y;
{{WINDOW}} }

fn kv_is_faulty(b: u32) -> bool {
    return mask_words[slot_u32(KV_SEQUENCES_SLOT) + b] > MOST_POSITIONS;
}
