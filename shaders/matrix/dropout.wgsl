// Dropout on a lane's weights of four keys. Those that are kept stay as they are, since f16 doesn't hold all that 1 / (1 - p)
// may make of them: the row's norm has that factor.

// needs common/query_block: QueryBlock
// needs matrix/lanes: Lane
// needs score/dropout: dropout_keeps, dropout_row
// offers dropped_weights

fn dropped_weights(weights: vec4<f16>, block: QueryBlock, key: u32, lane: Lane) -> vec4<f16> {
    let row = dropout_row(block.b, block.h, block.q0 + lane.row);
    let keep = vec4<bool>(
        dropout_keeps(row, key),
        dropout_keeps(row, key + 1u),
        dropout_keeps(row, key + 2u),
        dropout_keeps(row, key + 3u),
    );
    return select(vec4<f16>(0.0), weights, keep);
}
