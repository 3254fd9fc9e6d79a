// The gradients of keys and values lie as these do.

// needs sequences/: kv_place
// offers gradient_place

fn gradient_place(b: u32, kv_idx: u32) -> vec2<u32> {
    return kv_place(b, kv_idx);
}
