// A dispatch that binds a window of the keys: rows [params.first_row, params.end_row) of them. Dispatches for the windows
// follow each other, and each goes on from what the ones before have left. The names are those of segments/whole.

// needs bindings: params
// needs mask/algebra: PARTIAL
// needs sequences/: kv_place
// offers bound_keys, class_of_bound, is_bound

fn bound_keys(b: u32, kv_len: u32) -> vec2<u32> {
    let first = kv_place(b, 0u).y;
    let window = max(vec2<u32>(params.first_row, params.end_row), vec2<u32>(first)) - first;
    return vec2<u32>(window.x, min(window.y, kv_len));
}

fn is_bound(b: u32, kv_idx: u32, keys: vec2<u32>) -> bool {
    return kv_idx >= keys.x && kv_idx < keys.y;
}

fn class_of_bound(b: u32, kind: u32, kv0: u32, kv1: u32, keys: vec2<u32>) -> u32 {
    return select(kind, min(kind, PARTIAL), kv0 < keys.x || kv1 > keys.y);
}
