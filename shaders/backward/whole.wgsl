// A dispatch that binds all of the queries.

// needs bindings: params
// offers bound_heads, bound_queries, follows_queries, precedes_queries

// The heads of a group whose queries are bound, and which of their rows: [x, y) each.
fn bound_heads(h_kv: u32) -> vec2<u32> {
    return vec2<u32>(h_kv, h_kv + 1u) * params.group_size;
}

fn bound_queries(q_len: u32) -> vec2<u32> {
    return vec2<u32>(0u, q_len);
}

// Whether other queries were summed before these, and are to follow.
fn follows_queries() -> bool {
    return false;
}

fn precedes_queries() -> bool {
    return false;
}
