// sums += cells^T {{FAR_TENSOR}} of a slice of {{FAR_TENSOR}}'s components, over the tile's rows of the other side, of which STAGED_ROWS are staged at a time. In PARTIAL
// tiles what isn't finite counts as 0 and is noted.

// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs constants: OTHER_BLOCK, STAGED_ROWS, THREADS_PER_ROW
// needs mask/algebra: PARTIAL
// needs rows/: load_{{FAR_TENSOR}}4
// needs tile/rows: CELL_ROW, INVOCATIONS, note_nonfinite, slice_start
// needs tile/side: Rows
// needs tile/staged: cells, stage
// needs tile/turns: is_turn, turns
// offers add_{{FAR_TENSOR}}

fn add_{{FAR_TENSOR}}(
    sums: ptr<function, array<array<vec4<f32>, {{SLICE}} / 4u / THREADS_PER_ROW>, 4>>,
    other: Rows,
    kind: u32,
    invocation: u32,
) {
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;
    for (var j0 = 0u; j0 < OTHER_BLOCK; j0 += STAGED_ROWS) {
        workgroupBarrier();
        for (var i = 0u; i < turns(STAGED_ROWS * ({{SLICE}} / 4u)); i += 1u) {
            let at = i * INVOCATIONS + invocation;
            if (is_turn(at, STAGED_ROWS * ({{SLICE}} / 4u))) {
                let j = j0 + at / ({{SLICE}} / 4u);
                let place = {{FAR_SIDE}}_place(other.b, min(other.first + j, other.last));
                let d = slice_start({{SLICE}}) + at % ({{SLICE}} / 4u) * 4u;
                var value = load_{{FAR_TENSOR}}4(place.x, other.h, place.y, d);
                if (kind == PARTIAL) {
                    if (any(is_nonfinite(value))) {
                        value = without_nonfinite(value);
                        note_nonfinite(j);
                    }
                }
                stage[at] = value;
            }
        }
        workgroupBarrier();
        for (var j = 0u; j < STAGED_ROWS; j += 1u) {
            let cell = cells[(j0 + j) * CELL_ROW + y];
            for (var i = 0u; i < {{SLICE}} / 4u / THREADS_PER_ROW; i += 1u) {
                let value = stage[j * ({{SLICE}} / 4u) + x + i * THREADS_PER_ROW];
                (*sums)[0][i] = fma(vec4<f32>(cell.x), value, (*sums)[0][i]);
                (*sums)[1][i] = fma(vec4<f32>(cell.y), value, (*sums)[1][i]);
                (*sums)[2][i] = fma(vec4<f32>(cell.z), value, (*sums)[2][i]);
                (*sums)[3][i] = fma(vec4<f32>(cell.w), value, (*sums)[3][i]);
            }
        }
    }
}
