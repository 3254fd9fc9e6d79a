// {{TENSOR}} is f32, by elements.

// offers read_{{TENSOR}}

fn read_{{TENSOR}}(at: u32) -> f32 {
    return {{TENSOR}}[at];
}
