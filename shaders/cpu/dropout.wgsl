// Dropout on the weights of a lane's row of a tile.

// needs constants: SUBGROUP_SIZE
// needs score/dropout: dropout_factor, dropout_row
// offers dropped_weights

fn dropped_weights(b: u32, h: u32, q_idx: u32, kv0: u32, weights: array<f32, SUBGROUP_SIZE>) -> array<f32, SUBGROUP_SIZE> {
    let row = dropout_row(b, h, q_idx);
    var dropped = weights;
    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
        dropped[j] *= dropout_factor(row, kv0 + j);
    }
    return dropped;
}
