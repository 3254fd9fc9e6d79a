// sums[r] += weights[r] {{TENSOR}}[first ..], for as many rows of {{TENSOR}} as there are lanes. In PARTIAL tiles what isn't finite counts
// as 0; bit j of the result says that row first + j had some. Of the weights nothing is left.
//
// {{AT_ONCE}} lanes share the rows that are summed up at a time; each has every n-th vector of one, so that sums run in order.

// needs common/nonfinite: is_nonfinite, without_nonfinite
// needs constants: ROWS, SUBGROUP_SIZE
// needs mask/algebra: PARTIAL
// needs rows/: load_{{TENSOR}}4
// offers add_{{KIND}}{{TENSOR}}

fn add_{{KIND}}{{TENSOR}}(
    sums: ptr<function, array<array<vec4<f32>, {{CAPACITY}} / 4u>, ROWS>>,
    weights: ptr<function, array<array<f32, SUBGROUP_SIZE>, ROWS>>,
    b: u32,
    h: u32,
    first: u32,
    last: u32,
    kind: u32,
    lane: u32,
) -> u32 {
    const PIECES: u32 = SUBGROUP_SIZE / {{AT_ONCE}};
    // 0, which compilers don't know: lanes' numbers that aren't constants, see products.
    let zero = first >> 31u;
    var nonfinite = 0u;
    for (var step = 0u; step < SUBGROUP_SIZE; step += {{AT_ONCE}}) {
        let place = {{SIDE}}_place(b, min(first + step + lane % {{AT_ONCE}}, last));
        var found = false;
        for (var i = 0u; i < {{CAPACITY}} / 4u; i += PIECES) {
            var piece = load_{{TENSOR}}4(place.x, h, place.y, (i + lane / {{AT_ONCE}}) * 4u);
            if (kind == PARTIAL) {
                found |= any(is_nonfinite(piece));
                piece = without_nonfinite(piece);
            }
            for (var n = 0u; n < PIECES; n += 1u) {
                for (var j = 0u; j < {{AT_ONCE}}; j += 1u) {
                    let y = subgroupShuffle(piece, zero + n * {{AT_ONCE}} + j);
                    for (var r = 0u; r < ROWS; r += 1u) {
                        (*sums)[r][i + n] = fma(vec4<f32>((*weights)[r][j]), y, (*sums)[r][i + n]);
                    }
                }
            }
        }
        if (kind == PARTIAL) {
            let lanes = subgroupBallot(found).x;
            for (var n = 0u; n < PIECES; n += 1u) {
                nonfinite |= ((lanes >> (n * {{AT_ONCE}})) & (0xffffffffu >> (32u - {{AT_ONCE}}))) << step;
            }
        }
        for (var r = 0u; r < ROWS; r += 1u) {
            for (var j = 0u; j < SUBGROUP_SIZE - {{AT_ONCE}}; j += 1u) {
                (*weights)[r][j] = (*weights)[r][j + {{AT_ONCE}}];
            }
        }
    }
    return nonfinite;
}
