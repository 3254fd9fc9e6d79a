// TENSOR has rows of 8 bits per element: the row's largest magnitude as an f32, then four elements to a word, in 127ths
// of that magnitude.

// Element d of the row that begins at word `start`, and the three behind it.
fn read_TENSOR4(start: u32, d: u32) -> vec4<f32> {
    // Not `unpack4x8snorm`, which divides and limits each element.
    let words = vec4<u32>(TENSOR[start + 1u + d / 4u]) << vec4<u32>(24u, 16u, 8u, 0u);
    let unit = bitcast<f32>(TENSOR[start]) * (1.0 / 127.0);
    return vec4<f32>(bitcast<vec4<i32>>(words) >> vec4<u32>(24u)) * unit;
}
