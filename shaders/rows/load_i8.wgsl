// Rows of TENSOR of 8 bits per element: the row's largest magnitude as an f32, then four elements to a word, of which
// 127 stands for that magnitude. What lies beyond a row's end reads as zero.

fn load_TENSOR4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let start = element(params.TENSOR_strides, params.TENSOR_base, b, h, row, 0u) / 4u;
    let x = unpack4x8snorm(TENSOR[start + 1u + min(d, ROW_LENGTH - 1u) / 4u]) * bitcast<f32>(TENSOR[start]);
    return select(vec4<f32>(0.0), x, d < ROW_LENGTH);
}
