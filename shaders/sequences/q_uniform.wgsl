// Every sequence has seq_len_q queries.

// needs bindings: params
// offers given_q_len, q_is_faulty, q_place

fn given_q_len(b: u32) -> u32 {
    return params.seq_len_q;
}

fn q_place(b: u32, q_idx: u32) -> vec2<u32> {
    return vec2<u32>(b, q_idx);
}

fn q_is_faulty(b: u32) -> bool {
    return false;
}
