// NaN and infinities in v, where a tile keeps some cells and not others.
//
// A masked key has weight 0, but 0 * NaN is NaN. So such tiles take these values as 0, and the rows that do keep
// one of them get it back here, at the end: what is masked never reaches an output, what is kept always does.

// By the bits: WGSL lets compilers assume that comparisons see no NaN.
fn is_nonfinite(x: vec4<f32>) -> vec4<bool> {
    let exponent = vec4<u32>(EXPONENT_BITS);
    return (bitcast<vec4<u32>>(x) & exponent) == exponent;
}

fn without_nonfinite(x: vec4<f32>) -> vec4<f32> {
    return select(x, vec4<f32>(0.0), is_nonfinite(x));
}

// The sum of the values that aren't finite among the keys that a row keeps.
fn kept_nonfinite4(b: u32, h: u32, q_idx: u32, d: u32, hull: vec2<u32>) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var kv_idx = hull.x; kv_idx < hull.y; kv_idx += 1u) {
        let place = kv_place(b, kv_idx);
        let x = load_v4(place.x, h / params.group_size, place.y, d);
        let found = is_nonfinite(x);
        if (any(found)) {
            if (mask_keep(b, h, q_idx, kv_idx)) {
                sum += select(vec4<f32>(0.0), x, found);
            }
        }
    }
    return sum;
}
