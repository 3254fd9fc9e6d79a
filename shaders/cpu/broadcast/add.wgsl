// sums[r] += weights[r] {{TENSOR}}[first ..] in a tile of any kind, see sums. Code of its own for each: a choice further inside
// would be made number by number, in FULL tiles too.

// needs constants: ROWS, SUBGROUP_SIZE
// needs cpu/broadcast/sums: add_full_{{TENSOR}}, add_partial_{{TENSOR}}
// needs mask/algebra: FULL, PARTIAL
// offers add_{{TENSOR}}

fn add_{{TENSOR}}(
    sums: ptr<function, array<array<vec4<f32>, {{CAPACITY}} / 4u>, ROWS>>,
    weights: ptr<function, array<array<f32, SUBGROUP_SIZE>, ROWS>>,
    b: u32,
    h: u32,
    first: u32,
    last: u32,
    kind: u32,
    lane: u32,
) -> u32 {
    var nonfinite = 0u;
    if (kind == PARTIAL) {
        nonfinite = add_partial_{{TENSOR}}(sums, weights, b, h, first, last, PARTIAL, lane);
    } else {
        nonfinite = add_full_{{TENSOR}}(sums, weights, b, h, first, last, FULL, lane);
    }
    return nonfinite;
}
