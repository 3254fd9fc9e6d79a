// Rows of {{FROM}}, times a factor, to where a tile of {{TENSOR}} lies.

// needs constants: INVOCATIONS, OTHER_BLOCK
// needs matrix/rows: {{TENSOR}}_ROW, {{TENSOR}}_tile
// needs rows/: load_{{FROM}}4
// needs tile/side: Rows
// needs tile/turns: is_turn, turns
// offers stage_{{FROM}}

fn stage_{{FROM}}(rows: Rows, factor: f32, invocation: u32) {
    for (var i = 0u; i < turns(OTHER_BLOCK * ({{CAPACITY}} / 4u)); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, OTHER_BLOCK * ({{CAPACITY}} / 4u))) {
            let row = at / ({{CAPACITY}} / 4u);
            let c = at % ({{CAPACITY}} / 4u);
            let place = {{SIDE}}_place(rows.b, min(rows.first + row, rows.last));
            {{TENSOR}}_tile[row * {{TENSOR}}_ROW + c] = vec4<f16>(load_{{FROM}}4(place.x, rows.h, place.y, c * 4u) * factor);
        }
    }
}
