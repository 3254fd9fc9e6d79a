// A dispatch that binds a window of the queries: of each head of a group in [params.first_head, params.end_head), the rows
// [params.first_row, params.end_row) as they lie in memory. Dispatches for the windows follow each other, and each goes on from
// what the ones before have left. The names are those of backward/whole.
//
// A workgroup visits the tiles that have queries in the window. Where sequences begin anywhere, a tile's rows on both sides of it are
// bound, too, and count as masked.

// needs bindings: params
// needs sequences/: q_place
// offers bound_heads, bound_queries, count_bound, follows_queries, precedes_queries

fn bound_heads(h_kv: u32) -> vec2<u32> {
    return h_kv * params.group_size + vec2<u32>(params.first_head, params.end_head);
}

fn bound_queries(q_len: u32) -> vec2<u32> {
    return vec2<u32>(0u, q_len);
}

// How many of `count` queries from q_idx on are in the window.
fn count_bound(b: u32, q_idx: u32, count: u32) -> u32 {
    let row = q_place(b, q_idx).y;
    let first = max(row, params.first_row);
    return max(min(row + count, params.end_row), first) - first;
}

fn follows_queries() -> bool {
    return params.first_head != 0u || params.first_row != 0u;
}

fn precedes_queries() -> bool {
    return params.windows_follow != 0u;
}
