// As segments/window, for keys that lie in another order than they are counted in: in a ring, or in blocks of a pool. A
// workgroup visits the tiles of which some keys are in the window.

// needs bindings: params
// needs mask/algebra: PARTIAL, SKIP
// needs sequences/: window_row
// offers bound_keys, class_of_bound, is_bound

fn bound_keys(b: u32, kv_len: u32) -> vec2<u32> {
    return vec2<u32>(0u, kv_len);
}

fn is_bound(b: u32, kv_idx: u32, keys: vec2<u32>) -> bool {
    let row = window_row(b, min(kv_idx, max(keys.y, 1u) - 1u));
    return kv_idx < keys.y && row >= params.first_row && row < params.end_row;
}

fn class_of_bound(b: u32, kind: u32, kv0: u32, kv1: u32, keys: vec2<u32>) -> u32 {
    var count = 0u;
    for (var kv_idx = kv0; kv_idx < kv1; kv_idx += 1u) {
        count += select(0u, 1u, is_bound(b, kv_idx, keys));
    }
    return select(select(min(kind, PARTIAL), kind, count == kv1 - kv0), SKIP, count == 0u);
}
