// sums[r] += weights[r] TENSOR[first ..], for as many rows of TENSOR as there are lanes. In PARTIAL tiles what isn't finite
// counts as 0; bit j of the result says that row first + j had some. Of the weights nothing is left.
fn add_TENSOR(
    sums: ptr<function, array<array<vec4<f32>, LENGTH / 4u>, ROWS>>,
    weights: ptr<function, array<array<f32, SUBGROUP_SIZE>, ROWS>>,
    b: u32,
    h: u32,
    first: u32,
    last: u32,
    kind: u32,
    lane: u32,
) -> u32 {
    // Code of its own for each, but for long rows, which would take too long to compile twice: a choice further inside is
    // made number by number, in FULL tiles too.
    var nonfinite = 0u;
    if (kind == PARTIAL || LENGTH > 64u) {
        nonfinite = add_rows_of_TENSOR(sums, weights, b, h, first, last, kind == PARTIAL, lane);
    } else {
        nonfinite = add_rows_of_TENSOR(sums, weights, b, h, first, last, false, lane);
    }
    return nonfinite;
}

fn add_rows_of_TENSOR(
    sums: ptr<function, array<array<vec4<f32>, LENGTH / 4u>, ROWS>>,
    weights: ptr<function, array<array<f32, SUBGROUP_SIZE>, ROWS>>,
    b: u32,
    h: u32,
    first: u32,
    last: u32,
    only_finite: bool,
    lane: u32,
) -> u32 {
    // 0, which compilers don't know: lanes' numbers that aren't constants, see products.
    let zero = first >> 31u;
    var nonfinite = 0u;
    for (var step = 0u; step < SUBGROUP_SIZE; step += SUM_STEP) {
        let place = SIDE_place(b, min(first + step + lane % SUM_STEP, last));
        var found = false;
        for (var i = 0u; i < LENGTH / 4u; i += SUM_PIECES) {
            var piece = load_TENSOR4(place.x, h, place.y, (i + lane / SUM_STEP) * 4u);
            if (only_finite) {
                found |= any(is_nonfinite(piece));
                piece = without_nonfinite(piece);
            }
            for (var n = 0u; n < SUM_PIECES; n += 1u) {
                for (var j = 0u; j < SUM_STEP; j += 1u) {
                    let y = subgroupShuffle(piece, zero + n * SUM_STEP + j);
                    for (var r = 0u; r < ROWS; r += 1u) {
                        (*sums)[r][i + n] = fma(vec4<f32>((*weights)[r][j]), y, (*sums)[r][i + n]);
                    }
                }
            }
        }
        if (only_finite) {
            let lanes = subgroupBallot(found).x;
            for (var n = 0u; n < SUM_PIECES; n += 1u) {
                nonfinite |= ((lanes >> (n * SUM_STEP)) & (0xffffffffu >> (32u - SUM_STEP))) << step;
            }
        }
        for (var r = 0u; r < ROWS; r += 1u) {
            for (var j = 0u; j < SUBGROUP_SIZE - SUM_STEP; j += 1u) {
                (*weights)[r][j] = (*weights)[r][j + SUM_STEP];
            }
        }
    }
    return nonfinite;
}
