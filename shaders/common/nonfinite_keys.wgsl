// The sum of the numbers that aren't finite in {{TENSOR}}'s rows among the keys that a query keeps.

// needs bindings: params
// needs common/nonfinite: is_nonfinite
// needs generated: mask_keep
// needs rows/: load_{{TENSOR}}4
// needs segments/: is_bound
// needs sequences/: kv_place
// offers kept_nonfinite_{{TENSOR}}4

fn kept_nonfinite_{{TENSOR}}4(b: u32, h: u32, q_idx: u32, d: u32, hull: vec2<u32>) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var kv_idx = hull.x; kv_idx < hull.y; kv_idx += 1u) {
        let place = kv_place(b, kv_idx);
        let x = load_{{TENSOR}}4(place.x, h / params.group_size, place.y, d);
        let found = is_nonfinite(x);
        if (any(found)) {
            if (is_bound(b, kv_idx, hull) && mask_keep(b, h, q_idx, kv_idx)) {
                sum += select(vec4<f32>(0.0), x, found);
            }
        }
    }
    return sum;
}
