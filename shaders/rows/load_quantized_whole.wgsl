// Rows of {{TENSOR}} of 8 or 4 bits per element, which fill all the room that the kernel has for them.

// needs bindings: params
// needs common/problem: element
// needs cpu/rows/ or rows/: read_{{TENSOR}}4
// offers load_{{TENSOR}}4

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    return read_{{TENSOR}}4(element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u), {{ROW_LENGTH}}, d);
}
