// Which rows a workgroup has, and which tiles of keys they visit.

// needs bindings: params
// needs constants: BLOCK_KV, BLOCK_Q
// needs generated: mask_hull, mask_keep
// needs mask/algebra: Tile, hull_and
// needs mask_tables/: mask_tile, next_visited, visited_hull
// needs segments/: bound_keys, class_of_bound, is_bound
// {{OWN}} needs sequences/: q_place
// {{OWN}} needs sequences/own_rows: is_of_other_window
// offers QueryBlock, cell_kept, is_empty, kv_tile_class, last_skipped, query_block

struct QueryBlock {
    b: u32,
    h: u32,
    h_kv: u32,
    // The sequence's own lengths.
    q_len: u32,
    kv_len: u32,
    // The rows are [q0, q1): none where the sequence ends before q0.
    q0: u32,
    q1: u32,
    // The keys that are bound, and those of them between which all lie that any of the rows keeps.
    bound: vec2<u32>,
    hull: vec2<u32>,
}

// The last rows first: under a causal mask they have most to do.
fn query_block(index: u32) -> QueryBlock {
    let head_index = index / params.q_blocks;
    let b = head_index / params.num_heads;
    let h = head_index % params.num_heads;
    let rows = q_len(b);
    let q0 = (params.q_blocks - 1u - index % params.q_blocks) * BLOCK_Q;
    let q1 = min(q0 + BLOCK_Q, rows);
    let bound = bound_keys(b, kv_len(b));
    let hull = hull_and(bound, visited_hull(b, h, q0, mask_hull(b, h, q0, q1)));
    return QueryBlock(b, h, h / params.group_size, rows, kv_len(b), q0, q1, bound, hull);
}

fn is_empty(block: QueryBlock) -> bool {
    {{OWN}} if (is_of_other_window(q_place(block.b, block.q0).y)) {
    {{OWN}}     return true;
    {{OWN}} }
    return block.q0 >= block.q1;
}

// The class of the tile of BLOCK_KV keys from kv0 on; a tile that ends beyond the last key is never FULL.
fn kv_tile_class(block: QueryBlock, kv0: u32) -> u32 {
    let kv1 = kv0 + BLOCK_KV;
    let kind = mask_tile(block.b, block.h, Tile(block.q0, block.q1, kv0, min(kv1, block.kv_len)));
    return class_of_bound(block.b, kind, kv0, kv1, block.bound);
}

// Of the tiles that follow the one at kv0, and are known to be SKIP as it is, where the last begins.
fn last_skipped(block: QueryBlock, kv0: u32) -> u32 {
    let next = next_visited(block.b, block.h, block.q0, block.q1, kv0 + BLOCK_KV);
    return next / BLOCK_KV * BLOCK_KV - BLOCK_KV;
}

// Whether a cell of a PARTIAL tile is kept; cells beyond the sequence aren't.
fn cell_kept(block: QueryBlock, q_idx: u32, kv_idx: u32) -> bool {
    let inside = (q_idx < block.q_len) & is_bound(block.b, kv_idx, block.bound);
    let q_last = block.q_len - 1u;
    let kv_last = block.kv_len - 1u;
    return mask_keep(block.b, block.h, min(q_idx, q_last), min(kv_idx, kv_last)) & inside;
}
