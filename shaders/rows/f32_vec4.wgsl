// {{TENSOR}} is f32, four elements at a time.

// offers read_{{TENSOR}}4

fn read_{{TENSOR}}4(at: u32) -> vec4<f32> {
    return {{TENSOR}}[at];
}
