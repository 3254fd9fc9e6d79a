// Rows of o, whose length and strides are multiples of 4. What lies beyond a row's end isn't written.

fn store_o4(b: u32, h: u32, row: u32, d: u32, x: vec4<f32>) {
    if (d < ROW_LENGTH) {
        o[element(params.o_strides, b, h, row, d) / 4u] = x;
    }
}

fn load_o4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    return o[element(params.o_strides, b, h, row, min(d, ROW_LENGTH - 4u)) / 4u];
}
