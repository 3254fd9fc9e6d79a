// {{TENSOR}} has 16 bits per element, four at a time.

// offers read_{{TENSOR}}4

fn read_{{TENSOR}}4(at: u32) -> vec4<f32> {
    let words = {{TENSOR}}[at];
    return vec4<f32>({{HALF}}_unpack(words.x), {{HALF}}_unpack(words.y));
}
