// offers write_{{TENSOR}}4

fn write_{{TENSOR}}4(at: u32, x: vec4<f32>) {
    {{TENSOR}}[at] = x;
}
