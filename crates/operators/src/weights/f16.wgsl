// Weights as f16, two to a word.

@group(0) @binding(1) var<storage, read> weights: array<vec2<u32>>; // [outputs, columns4]

/// Four neighbouring weights of a row.
fn weights_at(row: u32, column4: u32) -> vec4<f32> {
    let words = weights[row * sizes.columns4 + column4];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
