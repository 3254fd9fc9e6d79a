// Weighted sums that may hold numbers that aren't finite.

// needs common/nonfinite: is_nonfinite
// needs common/problem: EXPONENT_BITS
// offers scaled, with_kept_nonfinite

// x * factor, where what isn't finite stays as it is, since the factor may have rounded to 0; a factor that isn't finite
// comes from weights that aren't, and counts.
fn scaled(x: vec4<f32>, factor: f32) -> vec4<f32> {
    let factor_is_finite = (bitcast<u32>(factor) & EXPONENT_BITS) != EXPONENT_BITS;
    return select(x * factor, x, is_nonfinite(x) & vec4<bool>(factor_is_finite));
}

// A row's weighted sum, where `kept` is the sum of the numbers that aren't finite among the values that it keeps. What comes
// from weights that aren't finite, whose sum is `l`, stays.
fn with_kept_nonfinite(x: vec4<f32>, kept: vec4<f32>, l: f32) -> vec4<f32> {
    let weights_are_finite = (bitcast<u32>(l) & EXPONENT_BITS) != EXPONENT_BITS;
    return select(x, kept, is_nonfinite(kept) & vec4<bool>(weights_are_finite));
}
