// {{TENSOR}} isn't wanted: what is stored is lost.

// offers load_{{TENSOR}}4, store_{{TENSOR}}4

fn load_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn store_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32, x: vec4<f32>) {
}
