// The terms of a tile's queries in workgroup memory, which all keys of the workgroup read.

// needs bindings: row_terms
// needs constants: BLOCK_Q, INVOCATIONS
// needs sequences/positions: lse_index
// needs tile/side: Rows
// needs tile/turns: is_turn, turns
// offers stage_terms, terms_tile

var<workgroup> terms_tile: array<vec4<f32>, BLOCK_Q>;

fn stage_terms(rows: Rows, invocation: u32) {
    for (var i = 0u; i < turns(BLOCK_Q); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, BLOCK_Q)) {
            terms_tile[at] = row_terms[lse_index(rows.b, rows.h, min(rows.first + at, rows.last))];
        }
    }
}
