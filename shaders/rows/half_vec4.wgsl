// TENSOR has 16 bits per element, four at a time.

fn read_TENSOR4(at: u32) -> vec4<f32> {
    let words = TENSOR[at];
    return vec4<f32>(HALF_unpack(words.x), HALF_unpack(words.y));
}
