fn write_TENSOR4(at: u32, x: vec4<f32>) {
    TENSOR[at] = vec2<u32>(HALF_pack(x.xy), HALF_pack(x.zw));
}
