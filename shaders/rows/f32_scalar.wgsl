// {{TENSOR}} is f32, by elements.

fn read_{{TENSOR}}(at: u32) -> f32 {
    return {{TENSOR}}[at];
}
