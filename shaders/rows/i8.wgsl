// {{TENSOR}} has rows of 8 bits per element, which kernels number through. Four rows stand together: first each one's largest
// magnitude as an f32, then the rows, four elements to a word, in 127ths of their magnitude.

// offers read_{{TENSOR}}4, scale_of_{{TENSOR}}, unpack_{{TENSOR}}4, words_of_{{TENSOR}}

// Where the magnitude of a row of `length` elements lies: as many magnitudes before it as rows, and all rows but those of its
// four.
fn scale_of_{{TENSOR}}(row: u32, length: u32) -> u32 {
    return row + row / 4u * 4u * ((length + 3u) / 4u);
}

// Where its first word lies: all rows before it, and the magnitudes to the end of its four.
fn words_of_{{TENSOR}}(row: u32, length: u32) -> u32 {
    return row * ((length + 3u) / 4u) + (row | 3u) + 1u;
}

fn unpack_{{TENSOR}}4(word: u32, magnitude: u32) -> vec4<f32> {
    // Not `unpack4x8snorm`, which divides and limits each element.
    let elements = vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u);
    let unit = bitcast<f32>(magnitude) * (1.0 / 127.0);
    return vec4<f32>(bitcast<vec4<i32>>(elements) >> vec4<u32>(24u)) * unit;
}

// The four elements from `d` on of that row.
fn read_{{TENSOR}}4(row: u32, length: u32, d: u32) -> vec4<f32> {
    let word = {{TENSOR}}[words_of_{{TENSOR}}(row, length) + d / 4u];
    return unpack_{{TENSOR}}4(word, {{TENSOR}}[scale_of_{{TENSOR}}(row, length)]);
}
