// Rows of {{TENSOR}}, whose length and strides are multiples of 4. What lies beyond a row's end reads as zero.

// needs bindings: params
// needs common/problem: element
// needs cpu/rows/ or rows/: read_{{TENSOR}}4
// offers load_{{TENSOR}}4

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let x = read_{{TENSOR}}4(element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, min(d, {{ROW_LENGTH}} - 4u)) / 4u);
    return select(vec4<f32>(0.0), x, d < {{ROW_LENGTH}});
}
