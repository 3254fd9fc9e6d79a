// Rows of TENSOR of 8 bits per element. What lies beyond a row's end reads as zero.

fn load_TENSOR4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let start = element(params.TENSOR_strides, params.TENSOR_base, b, h, row, 0u) / 4u;
    return select(vec4<f32>(0.0), read_TENSOR4(start, min(d, ROW_LENGTH - 1u)), d < ROW_LENGTH);
}
