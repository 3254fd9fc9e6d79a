// A dispatch that binds all of the keys.

// needs mask/algebra: PARTIAL
// offers bound_keys, class_of_bound, follows_keys, is_bound, precedes_keys

// The keys of sequence b that are bound, of the kv_len that there are: [x, y).
fn bound_keys(b: u32, kv_len: u32) -> vec2<u32> {
    return vec2<u32>(0u, kv_len);
}

// Whether a key is bound, `keys` being what bound_keys gave.
fn is_bound(b: u32, kv_idx: u32, keys: vec2<u32>) -> bool {
    return kv_idx < keys.y;
}

// The class of the tile of keys [kv0, kv1), which is `kind` where all of them are bound.
fn class_of_bound(b: u32, kind: u32, kv0: u32, kv1: u32, keys: vec2<u32>) -> u32 {
    return select(kind, min(kind, PARTIAL), kv1 > keys.y);
}

// Whether other keys were attended before these, and are to follow.
fn follows_keys() -> bool {
    return false;
}

fn precedes_keys() -> bool {
    return false;
}
