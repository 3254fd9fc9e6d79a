// Rows of {{TENSOR}} of 8 bits per element, which fill all the room that the kernel has for them.

// needs bindings: params
// needs common/problem: element
// needs cpu/rows/ or rows/: read_{{TENSOR}}4
// needs rows/i8: words_of_{{TENSOR}}
// offers load_{{TENSOR}}4

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let place = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u);
    return read_{{TENSOR}}4(place, {{ROW_LENGTH}} / 4u, words_of_{{TENSOR}}(place, {{ROW_LENGTH}} / 4u) + d / 4u);
}
