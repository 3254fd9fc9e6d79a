// NaN and infinities.
//
// A masked cell has weight 0, but 0 * NaN is NaN. So tiles that keep some cells and not others take these numbers as 0, and
// a row that keeps one of them gets it back at the end: what is masked never reaches an output, and what is kept always
// does, whatever its weight, since a weight may round to 0.

// needs common/problem: EXPONENT_BITS
// offers is_nonfinite, without_nonfinite

// By the bits: WGSL lets compilers assume that comparisons see no NaN.
fn is_nonfinite(x: vec4<f32>) -> vec4<bool> {
    let exponent = vec4<u32>(EXPONENT_BITS);
    return (bitcast<vec4<u32>>(x) & exponent) == exponent;
}

fn without_nonfinite(x: vec4<f32>) -> vec4<f32> {
    return select(x, vec4<f32>(0.0), is_nonfinite(x));
}
