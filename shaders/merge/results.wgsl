// Of whole results: m is their lse and l is 1; where no key was kept, lse is -inf and l is 0.

// needs bindings: params, stats
// needs common/problem: EXPONENT_BITS, SIGN_BIT
// offers part_stats

fn part_stats(i: u32, row: u32) -> vec2<f32> {
    let lse_part = stats[i * params.stats_stride + row];
    let bits = bitcast<u32>(lse_part);
    let nan = (bits & ~SIGN_BIT) > EXPONENT_BITS;
    let empty = bits == (EXPONENT_BITS | SIGN_BIT);
    return vec2<f32>(lse_part, select(select(1.0, lse_part, nan), 0.0, empty));
}
