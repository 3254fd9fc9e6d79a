// Rows of {{TENSOR}}, of any strides. What lies beyond a row's end reads as zero.

// needs bindings: params
// needs common/problem: element
// needs rows/: read_{{TENSOR}}
// offers load_{{TENSOR}}4

fn load_{{TENSOR}}(b: u32, h: u32, row: u32, d: u32) -> f32 {
    let x = read_{{TENSOR}}(element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, min(d, {{ROW_LENGTH}} - 1u)));
    return select(0.0, x, d < {{ROW_LENGTH}});
}

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(
        load_{{TENSOR}}(b, h, row, d),
        load_{{TENSOR}}(b, h, row, d + 1u),
        load_{{TENSOR}}(b, h, row, d + 2u),
        load_{{TENSOR}}(b, h, row, d + 3u),
    );
}
