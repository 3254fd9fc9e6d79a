// A dispatch that binds a window of the queries: of each head of a group in [params.first_head, params.end_head), the rows
// [params.first_row, params.end_row). Dispatches for the windows follow each other, and each goes on from what the ones
// before have left. The names are those of backward/whole.

// needs bindings: params
// offers bound_heads, bound_queries, follows_queries, precedes_queries

fn bound_heads(h_kv: u32) -> vec2<u32> {
    return h_kv * params.group_size + vec2<u32>(params.first_head, params.end_head);
}

fn bound_queries(q_len: u32) -> vec2<u32> {
    return vec2<u32>(params.first_row, min(params.end_row, q_len));
}

fn follows_queries() -> bool {
    return params.first_head != 0u || params.first_row != 0u;
}

fn precedes_queries() -> bool {
    return params.windows_follow != 0u;
}
