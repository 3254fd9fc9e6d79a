// Whether other windows of the keys were attended before this one, and are to follow.

// needs bindings: params
// offers follows_keys, precedes_keys

fn follows_keys() -> bool {
    return params.first_row != 0u;
}

fn precedes_keys() -> bool {
    return params.windows_follow != 0u;
}
