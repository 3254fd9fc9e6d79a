// Rows of TENSOR, whose length and strides are multiples of 4. What lies beyond a row's end isn't written.

fn store_TENSOR4(b: u32, h: u32, row: u32, d: u32, x: vec4<f32>) {
    if (d < ROW_LENGTH) {
        write_TENSOR4(element(params.TENSOR_strides, params.TENSOR_base, b, h, row, d) / 4u, x);
    }
}
