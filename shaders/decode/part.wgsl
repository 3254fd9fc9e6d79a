// The keys are split: a row's end is m, l and o of this split, for merge.wgsl to put together. m and l as they are: as
// one lse they would be rounded where it is large.

// needs bindings: params, stats
// needs decode/row_block: Row, RowBlock
// needs rows/: load_part4
// needs rows/store_vec4: store_part4
// needs sequences/positions: row_index
// offers end_row, end_row4, ended_row4

// What the row's components are multiplied with. `writes` is true in one invocation of the row.
fn end_row(block: RowBlock, row: Row, m: f32, l: f32, writes: bool) -> f32 {
    if (writes) {
        stats[block.split * params.stats_stride + row_index(block.b, row.h, row.q_idx)] = vec2<f32>(m, l);
    }
    return 1.0;
}

fn end_row4(block: RowBlock, row: Row, d: u32, x: vec4<f32>) {
    store_part4(block.split, 0u, row_index(block.b, row.h, row.q_idx), d, x);
}

fn ended_row4(block: RowBlock, row: Row, d: u32) -> vec4<f32> {
    return load_part4(block.split, 0u, row_index(block.b, row.h, row.q_idx), d);
}
