// Weights as GGUF's Q8_0: blocks of 32 in 34 bytes, a scale as f16 and 32 signed bytes; weight = scale * byte. Every other
// block starts in the middle of a word, so places are counted in halves of words.

@group(0) @binding(1) var<storage, read> weights: array<u32>; // [outputs, columns4 / 8, 34 bytes], and a word more

/// Four neighbouring weights of a row.
fn weights_at(row: u32, column4: u32) -> vec4<f32> {
    let block = (row * (sizes.columns4 / 8u) + column4 / 8u) * 17u;
    let scale = unpack2x16float(weights[block / 2u] >> (block % 2u * 16u)).x;
    let half_word = block + 1u + column4 % 8u * 2u;
    let low = weights[half_word / 2u];
    let high = weights[half_word / 2u + 1u];
    let word = select(low, (low >> 16u) | (high << 16u), half_word % 2u == 1u);
    return scale * vec4<f32>(unpack4xI8(word));
}
