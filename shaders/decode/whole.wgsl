// The keys aren't split: a row's end is o and lse.

// needs bindings: lse
// needs decode/row_block: Row, RowBlock
// needs rows/: load_o4, store_o4
// needs score/: row_end
// needs sequences/positions: lse_index
// needs sequences/q_uniform: q_place
// offers end_row, end_row4, ended_row4

// What the row's components are multiplied with. `writes` is true in one invocation of the row.
fn end_row(block: RowBlock, row: Row, m: f32, l: f32, writes: bool) -> f32 {
    let end = row_end(row.h, m, l);
    if (writes) {
        lse[lse_index(block.b, row.h, row.q_idx)] = end.lse;
    }
    return end.norm;
}

fn end_row4(block: RowBlock, row: Row, d: u32, x: vec4<f32>) {
    let place = q_place(block.b, row.q_idx);
    store_o4(place.x, row.h, place.y, d, x);
}

fn ended_row4(block: RowBlock, row: Row, d: u32) -> vec4<f32> {
    let place = q_place(block.b, row.q_idx);
    return load_o4(place.x, row.h, place.y, d);
}
