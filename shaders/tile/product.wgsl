// {{NEAR_TENSOR}} {{FAR_TENSOR}}^T of a tile: result[i] has the four own rows' products with the other side's row x + i * THREADS_PER_ROW.
// Chunks of CHUNK components of both are staged in workgroup memory.

// needs constants: CHUNK, OTHER_BLOCK, OWN_BLOCK, THREADS_PER_ROW
// needs rows/: load_{{FAR_TENSOR}}4, load_{{NEAR_TENSOR}}4
// needs tile/rows: INVOCATIONS, OTHERS
// needs tile/side: Rows
// needs tile/staged: CHUNK4, OTHER_ROW, OTHER_START, OWN_ROW, dot4, stage
// needs tile/turns: is_turn, turns
// offers product_{{NEAR_TENSOR}}_{{FAR_TENSOR}}

fn product_{{NEAR_TENSOR}}_{{FAR_TENSOR}}(own: Rows, other: Rows, length: u32, invocation: u32) -> array<vec4<f32>, OTHERS> {
    let y = invocation / THREADS_PER_ROW;
    let x = invocation % THREADS_PER_ROW;
    var s: array<vec4<f32>, OTHERS>;
    for (var i = 0u; i < OTHERS; i += 1u) {
        s[i] = vec4<f32>(0.0);
    }
    for (var d0 = 0u; d0 < length; d0 += CHUNK) {
        workgroupBarrier();
        for (var i = 0u; i < turns(OWN_BLOCK * CHUNK4); i += 1u) {
            let at = i * INVOCATIONS + invocation;
            if (is_turn(at, OWN_BLOCK * CHUNK4)) {
                let place = {{NEAR_SIDE}}_place(own.b, min(own.first + at / CHUNK4, own.last));
                stage[at % CHUNK4 * OWN_ROW + at / CHUNK4] =
                    load_{{NEAR_TENSOR}}4(place.x, own.h, place.y, d0 + at % CHUNK4 * 4u);
            }
        }
        for (var i = 0u; i < turns(OTHER_BLOCK * CHUNK4); i += 1u) {
            let at = i * INVOCATIONS + invocation;
            if (is_turn(at, OTHER_BLOCK * CHUNK4)) {
                let place = {{FAR_SIDE}}_place(other.b, min(other.first + at / CHUNK4, other.last));
                stage[OTHER_START + at % CHUNK4 * OTHER_ROW + at / CHUNK4] =
                    load_{{FAR_TENSOR}}4(place.x, other.h, place.y, d0 + at % CHUNK4 * 4u);
            }
        }
        workgroupBarrier();
        for (var d4 = 0u; d4 < CHUNK4; d4 += 1u) {
            let at = d4 * OWN_ROW + y * 4u;
            let row0 = stage[at];
            let row1 = stage[at + 1u];
            let row2 = stage[at + 2u];
            let row3 = stage[at + 3u];
            for (var i = 0u; i < OTHERS; i += 1u) {
                let far = stage[OTHER_START + d4 * OTHER_ROW + x + i * THREADS_PER_ROW];
                s[i] = vec4<f32>(
                    dot4(row0, far, s[i].x),
                    dot4(row1, far, s[i].y),
                    dot4(row2, far, s[i].z),
                    dot4(row3, far, s[i].w),
                );
            }
        }
    }
    return s;
}
