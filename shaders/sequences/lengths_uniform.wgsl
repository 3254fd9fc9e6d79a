fn q_len(b: u32) -> u32 {
    return given_q_len(b);
}

fn kv_len(b: u32) -> u32 {
    return given_kv_len(b);
}
