// {{TENSOR}} is f32, four elements at a time, two to a word of 64 bits, the first in the lower half.

// offers read_{{TENSOR}}4

fn read_{{TENSOR}}4(at: u32) -> vec4<f32> {
    let words = {{TENSOR}}[at];
    return bitcast<vec4<f32>>(vec4<u32>(u32(words.x), u32(words.x >> 32u), u32(words.y), u32(words.y >> 32u)));
}
