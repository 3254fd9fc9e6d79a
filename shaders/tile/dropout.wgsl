// Dropout on an invocation's weights of a tile.

// needs common/query_block: QueryBlock
// needs forward/tiled: tile_key
// needs score/dropout: dropout_factor, dropout_row
// needs tile/softmax: KEYS
// offers drop_weights

fn drop_weights(block: QueryBlock, kv0: u32, y: u32, x: u32, s: ptr<function, array<vec4<f32>, KEYS>>) {
    let row = block.q0 + y * 4u;
    let row0 = dropout_row(block.b, block.h, row);
    let row1 = dropout_row(block.b, block.h, row + 1u);
    let row2 = dropout_row(block.b, block.h, row + 2u);
    let row3 = dropout_row(block.b, block.h, row + 3u);
    for (var i = 0u; i < KEYS; i += 1u) {
        let key = kv0 + tile_key(x, i);
        (*s)[i] *= vec4<f32>(
            dropout_factor(row0, key),
            dropout_factor(row1, key),
            dropout_factor(row2, key),
            dropout_factor(row3, key),
        );
    }
}
