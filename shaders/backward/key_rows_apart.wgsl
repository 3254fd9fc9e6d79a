// Sequences may share rows of keys and values, so each has gradients of its own, which backward/pages.wgsl adds up.

// offers gradient_place

fn gradient_place(b: u32, kv_idx: u32) -> vec2<u32> {
    return vec2<u32>(b, kv_idx);
}
