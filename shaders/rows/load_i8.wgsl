// Rows of {{TENSOR}} of 8 bits per element. What lies beyond a row's end reads as zero.

// needs bindings: params
// needs common/problem: element
// needs rows/: read_{{TENSOR}}4
// needs rows/i8: words_of_{{TENSOR}}
// offers load_{{TENSOR}}4

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    let place = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u);
    let words = ({{ROW_LENGTH}} + 3u) / 4u;
    let at = words_of_{{TENSOR}}(place, words) + min(d / 4u, words - 1u);
    return select(vec4<f32>(0.0), read_{{TENSOR}}4(place, words, at), d < {{ROW_LENGTH}});
}
