// result[r][j] = own[r] . {{TENSOR}}[first + j], for as many rows of {{TENSOR}} as there are lanes, each of which has one.
//
// The products move up as the next ones join them, since an index that isn't constant would put them into memory. The row is
// gone through by two: Mesa unrolls no loop of more than 32 turns here, and it would be in memory as well. The lanes' numbers
// aren't constants, on purpose: for one that is, Mesa's driver for CPUs takes two instructions a broadcast instead of one.

// needs constants: ROWS, SUBGROUP_SIZE
// needs cpu/broadcast/broadcast: STEP
// needs rows/: load_{{TENSOR}}4
// offers products_with_{{TENSOR}}

fn products_with_{{TENSOR}}(
    own: ptr<function, array<array<vec4<f32>, {{CAPACITY}} / 4u>, ROWS>>,
    b: u32,
    h: u32,
    first: u32,
    last: u32,
    lane: u32,
) -> array<array<f32, SUBGROUP_SIZE>, ROWS> {
    let place = {{SIDE}}_place(b, min(first + lane, last));
    var row: array<vec4<f32>, {{CAPACITY}} / 4u>;
    for (var i = 0u; i < {{CAPACITY}} / 4u; i += 2u) {
        for (var n = 0u; n < 2u; n += 1u) {
            row[i + n] = load_{{TENSOR}}4(place.x, h, place.y, (i + n) * 4u);
        }
    }
    var products: array<array<f32, SUBGROUP_SIZE>, ROWS>;
    for (var step = 0u; step < SUBGROUP_SIZE; step += STEP) {
        var next: array<array<f32, STEP>, ROWS>;
        for (var r = 0u; r < ROWS; r += 1u) {
            for (var j = 0u; j < STEP; j += 1u) {
                next[r][j] = 0.0;
            }
        }
        for (var i = 0u; i < {{CAPACITY}} / 4u; i += 2u) {
            for (var n = 0u; n < 2u; n += 1u) {
                for (var j = 0u; j < STEP; j += 1u) {
                    let y = subgroupShuffle(row[i + n], step + j);
                    for (var r = 0u; r < ROWS; r += 1u) {
                        let x = (*own)[r][i + n];
                        next[r][j] = fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, next[r][j]))));
                    }
                }
            }
        }
        for (var r = 0u; r < ROWS; r += 1u) {
            for (var j = 0u; j < SUBGROUP_SIZE - STEP; j += 1u) {
                products[r][j] = products[r][j + STEP];
            }
            for (var j = 0u; j < STEP; j += 1u) {
                products[r][SUBGROUP_SIZE - STEP + j] = next[r][j];
            }
        }
    }
    return products;
}
