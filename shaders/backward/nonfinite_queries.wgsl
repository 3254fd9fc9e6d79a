// The sum of the numbers that aren't finite in {{TENSOR}}'s rows among the queries that keep a key.

// needs backward/: bound_heads, bound_queries
// needs common/nonfinite: is_nonfinite
// needs generated: mask_keep
// needs rows/: load_{{TENSOR}}4
// needs sequences/: q_len, q_place
// {{QUERY_WINDOW}} needs backward/window: count_bound
// offers kept_nonfinite_{{TENSOR}}4

fn kept_nonfinite_{{TENSOR}}4(b: u32, h_kv: u32, kv_idx: u32, d: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    let heads = bound_heads(h_kv);
    let queries = bound_queries(q_len(b));
    for (var h = heads.x; h < heads.y; h += 1u) {
        for (var q_idx = queries.x; q_idx < queries.y; q_idx += 1u) {
            {{QUERY_WINDOW}} if (count_bound(b, q_idx, 1u) == 0u) {
            {{QUERY_WINDOW}}     continue;
            {{QUERY_WINDOW}} }
            let place = q_place(b, q_idx);
            let x = load_{{TENSOR}}4(place.x, h, place.y, d);
            let found = is_nonfinite(x);
            if (any(found)) {
                if (mask_keep(b, h, q_idx, kv_idx)) {
                    sum += select(vec4<f32>(0.0), x, found);
                }
            }
        }
    }
    return sum;
}
