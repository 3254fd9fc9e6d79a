// needs sequences/kv_uniform: given_kv_len
// needs sequences/q_uniform: given_q_len
// offers kv_len, q_len

fn q_len(b: u32) -> u32 {
    return given_q_len(b);
}

fn kv_len(b: u32) -> u32 {
    return given_kv_len(b);
}
