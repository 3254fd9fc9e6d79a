// Rows of {{TENSOR}} that aren't multiplied by a Hadamard matrix.

// needs cache/: turned_{{TENSOR}}4
// offers incoming_{{TENSOR}}4

fn incoming_{{TENSOR}}4(place: vec2<u32>, h: u32, d: u32, position: u32) -> vec4<f32> {
    return turned_{{TENSOR}}4(place, h, d, position);
}
