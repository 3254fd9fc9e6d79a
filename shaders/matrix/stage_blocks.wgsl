// A tile of {{TENSOR}} to workgroup memory: as rows, transposed, or both, each element read once. Four rows' four components at a
// time; neighbours have neighbouring rows, so that they write to different banks.
//
// Products are of the rows as they are. Sums are of the transposed tile, in which what isn't finite counts as 0 and is noted if the
// tile is PARTIAL.

// needs constants: INVOCATIONS
// needs matrix/nonfinite_rows: OTHER4, TURNED_ROW, with_nonfinite_noted
// needs matrix/rows: {{TENSOR}}_ROW, {{TENSOR}}_tile
// needs matrix/turned: {{TENSOR}}_turned
// needs rows/: load_{{TENSOR}}4
// needs tile/side: Rows
// needs tile/turns: is_turn, turns
// offers stage_tile_of_{{TENSOR}}

fn stage_tile_of_{{TENSOR}}(rows: Rows, kind: u32, noted: u32, invocation: u32) {
    for (var i = 0u; i < turns(OTHER4 * ({{CAPACITY}} / 4u)); i += 1u) {
        let at = i * INVOCATIONS + invocation;
        if (is_turn(at, OTHER4 * ({{CAPACITY}} / 4u))) {
            let j = at % OTHER4 * 4u;
            let d = at / OTHER4 * 4u;
            var values = mat4x4<f32>(
                {{TENSOR}}_to_stage(rows, j, d),
                {{TENSOR}}_to_stage(rows, j + 1u, d),
                {{TENSOR}}_to_stage(rows, j + 2u, d),
                {{TENSOR}}_to_stage(rows, j + 3u, d),
            );
            {{ROWS}} let row = j * {{TENSOR}}_ROW + d / 4u;
            {{ROWS}} {{TENSOR}}_tile[row] = vec4<f16>(values[0]);
            {{ROWS}} {{TENSOR}}_tile[row + {{TENSOR}}_ROW] = vec4<f16>(values[1]);
            {{ROWS}} {{TENSOR}}_tile[row + 2u * {{TENSOR}}_ROW] = vec4<f16>(values[2]);
            {{ROWS}} {{TENSOR}}_tile[row + 3u * {{TENSOR}}_ROW] = vec4<f16>(values[3]);
            {{TURNED}} values = with_nonfinite_noted(values, j, kind, noted);
            {{TURNED}} let turned = transpose(values);
            {{TURNED}} let to = d * TURNED_ROW + j / 4u;
            {{TURNED}} {{TENSOR}}_turned[to] = vec4<f16>(turned[0]);
            {{TURNED}} {{TENSOR}}_turned[to + TURNED_ROW] = vec4<f16>(turned[1]);
            {{TURNED}} {{TENSOR}}_turned[to + 2u * TURNED_ROW] = vec4<f16>(turned[2]);
            {{TURNED}} {{TENSOR}}_turned[to + 3u * TURNED_ROW] = vec4<f16>(turned[3]);
        }
    }
}

fn {{TENSOR}}_to_stage(rows: Rows, j: u32, d: u32) -> vec4<f32> {
    let place = {{SIDE}}_place(rows.b, min(rows.first + j, rows.last));
    return load_{{TENSOR}}4(place.x, rows.h, place.y, d);
}
