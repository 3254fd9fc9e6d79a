// Rows of {{TENSOR}} of 8 or 4 bits per element. What lies beyond a row's end reads as zero.

// needs bindings: params
// needs common/problem: element
// needs rows/: read_{{TENSOR}}4
// offers load_{{TENSOR}}4

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let place = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u);
    let x = read_{{TENSOR}}4(place, {{ROW_LENGTH}}, min(d, ({{ROW_LENGTH}} - 1u) & ~3u));
    return select(vec4<f32>(0.0), x, d < {{ROW_LENGTH}});
}
