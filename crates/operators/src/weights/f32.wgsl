// Weights as f32.

@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>; // [outputs, columns4]

/// Four neighbouring weights of a row.
fn weights_at(row: u32, column4: u32) -> vec4<f32> {
    return weights[row * sizes.columns4 + column4];
}
