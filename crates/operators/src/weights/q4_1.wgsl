// Weights as GGUF's Q4_1: blocks of 32 in 5 words. The first word has a scale and a minimum, f16. Byte j of the other 16
// has weight j in its lower 4 bits and weight j + 16 in its upper 4; weight = scale * bits + minimum.

@group(0) @binding(1) var<storage, read> weights: array<u32>; // [outputs, columns4 / 8, 5]

/// Four neighbouring weights of a row.
fn weights_at(row: u32, column4: u32) -> vec4<f32> {
    let block = (row * (sizes.columns4 / 8u) + column4 / 8u) * 5u;
    let quad = column4 % 8u;
    let scale = unpack2x16float(weights[block]);
    let word = weights[block + 1u + quad % 4u] >> (quad / 4u * 4u);
    let bits = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u);
    return fma(vec4<f32>(bits), vec4<f32>(scale.x), vec4<f32>(scale.y));
}
