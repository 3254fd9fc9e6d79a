// What the weights of a query's four neighbouring keys are multiplied with. Keys beyond the last one are taken for it, as by
// `cell_of`'s callers, so that compilers compute each factor once.

// needs score/dropout: dropout_factor, dropout_row
// offers dropout_factors

fn dropout_factors(b: u32, h: u32, q_idx: u32, key0: u32, kv_last: u32) -> vec4<f32> {
    let row = dropout_row(b, h, q_idx);
    return vec4<f32>(
        dropout_factor(row, min(key0, kv_last)),
        dropout_factor(row, min(key0 + 1u, kv_last)),
        dropout_factor(row, min(key0 + 2u, kv_last)),
        dropout_factor(row, min(key0 + 3u, kv_last)),
    );
}
