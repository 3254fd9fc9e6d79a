// Every sequence has seq_len_kv keys.

// needs bindings: params
// offers given_kv_len, kv_is_faulty, kv_place

fn given_kv_len(b: u32) -> u32 {
    return params.seq_len_kv;
}

fn kv_place(b: u32, kv_idx: u32) -> vec2<u32> {
    return vec2<u32>(b, kv_idx);
}

fn kv_is_faulty(b: u32) -> bool {
    return false;
}
