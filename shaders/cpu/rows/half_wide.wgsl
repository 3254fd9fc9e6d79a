// {{TENSOR}} has 16 bits per element, four to a word of 64 bits, the first in the lowest bits.

// offers read_{{TENSOR}}4

fn read_{{TENSOR}}4(at: u32) -> vec4<f32> {
    let word = {{TENSOR}}[at];
    return vec4<f32>({{HALF}}_unpack(u32(word)), {{HALF}}_unpack(u32(word >> 32u)));
}
