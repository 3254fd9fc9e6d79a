// offers write_{{TENSOR}}

fn write_{{TENSOR}}(at: u32, x: f32) {
    {{TENSOR}}[at] = x;
}
