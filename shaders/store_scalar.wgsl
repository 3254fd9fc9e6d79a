// Rows of o, of any strides. What lies beyond a row's end isn't written.

fn store_o4(b: u32, h: u32, row: u32, d: u32, x: vec4<f32>) {
    let at = element(params.o_strides, b, h, row, d);
    let stride = params.o_strides.w;
    if (d < ROW_LENGTH) {
        o[at] = x.x;
    }
    if (d + 1u < ROW_LENGTH) {
        o[at + stride] = x.y;
    }
    if (d + 2u < ROW_LENGTH) {
        o[at + 2u * stride] = x.z;
    }
    if (d + 3u < ROW_LENGTH) {
        o[at + 3u * stride] = x.w;
    }
}

fn load_o4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let at = element(params.o_strides, b, h, row, 0u);
    let last = ROW_LENGTH - 1u;
    let stride = params.o_strides.w;
    return vec4<f32>(
        o[at + min(d, last) * stride],
        o[at + min(d + 1u, last) * stride],
        o[at + min(d + 2u, last) * stride],
        o[at + min(d + 3u, last) * stride],
    );
}
