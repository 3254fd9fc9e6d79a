// What the weights of a query's four neighbouring keys are multiplied with.

// needs score/dropout: dropout_factor, dropout_row
// offers dropout_factors

fn dropout_factors(b: u32, h: u32, q_idx: u32, key0: u32) -> vec4<f32> {
    let row = dropout_row(b, h, q_idx);
    return vec4<f32>(
        dropout_factor(row, key0),
        dropout_factor(row, key0 + 1u),
        dropout_factor(row, key0 + 2u),
        dropout_factor(row, key0 + 3u),
    );
}
