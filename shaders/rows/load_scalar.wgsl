// Rows of TENSOR, of any strides. What lies beyond a row's end reads as zero.

fn load_TENSOR(b: u32, h: u32, row: u32, d: u32) -> f32 {
    let x = read_TENSOR(element(params.TENSOR_strides, params.TENSOR_base, b, h, row, min(d, ROW_LENGTH - 1u)));
    return select(0.0, x, d < ROW_LENGTH);
}

fn load_TENSOR4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(
        load_TENSOR(b, h, row, d),
        load_TENSOR(b, h, row, d + 1u),
        load_TENSOR(b, h, row, d + 2u),
        load_TENSOR(b, h, row, d + 3u),
    );
}
