// Which rows and keys a workgroup of a decode kernel has.
//
// The queries of the heads that share keys and values are packed: row r of kv head h_kv is query r % q_len of head
// h_kv * group_size + r / q_len. So a key that a workgroup has read serves all of its rows.
//
// The keys that the mask's hull leaves are split by whole tiles, as evenly as they go; what a split finds doesn't depend
// on when it runs.

// needs bindings: params
// needs constants: BLOCK_KV, ROWS
// needs generated: mask_hull, mask_keep
// needs mask/algebra: FULL, PARTIAL, SKIP, Tile, hull_and, hull_or
// needs mask_tables/: mask_tile, next_visited, visited_hull
// needs segments/: bound_keys, class_of_bound, is_bound
// offers Row, RowBlock, cell_kept, is_empty, kv_tile_class, last_skipped, packed_row, row_block

struct RowBlock {
    b: u32,
    h_kv: u32,
    // The sequence's own lengths.
    q_len: u32,
    kv_len: u32,
    // The rows are [r0, r1) of the packed ones: none where the sequence ends before r0.
    r0: u32,
    r1: u32,
    split: u32,
    // The first and the last head that the rows belong to; the first alone where the mask is the same for all.
    mask_heads: vec2<u32>,
    // The split's keys, [x, y): x is a multiple of BLOCK_KV.
    keys: vec2<u32>,
    // The keys that are bound.
    bound: vec2<u32>,
}

// A packed row's head and query.
struct Row {
    h: u32,
    q_idx: u32,
}

// Row blocks that read the same keys are neighbours.
fn row_block(index: u32) -> RowBlock {
    let head_index = index / params.q_blocks / params.num_splits;
    let num_kv_heads = params.num_heads / params.group_size;
    let b = head_index / num_kv_heads;
    let h_kv = head_index % num_kv_heads;
    let split = index / params.q_blocks % params.num_splits;
    let queries = q_len(b);
    let r0 = index % params.q_blocks * ROWS;
    let r1 = min(r0 + ROWS, params.group_size * queries);
    if (r0 >= r1) {
        return RowBlock(b, h_kv, queries, 0u, r0, r1, split, vec2<u32>(0u), vec2<u32>(0u), vec2<u32>(0u));
    }

    let first = h_kv * params.group_size + r0 / queries;
    let last = h_kv * params.group_size + (r1 - 1u) / queries;
    let mask_heads = vec2<u32>(first, select(last, first, params.mask_heads == 1u));
    var hull = visited_hull(b, first, 0u, mask_hull(b, first, 0u, queries));
    for (var h = first + 1u; h <= mask_heads.y; h += 1u) {
        hull = hull_or(hull, visited_hull(b, h, 0u, mask_hull(b, h, 0u, queries)));
    }
    let bound = bound_keys(b, kv_len(b));
    hull = hull_and(bound, hull);
    let tile0 = hull.x / BLOCK_KV;
    let tiles = max((hull.y + BLOCK_KV - 1u) / BLOCK_KV, tile0) - tile0;
    let keys = vec2<u32>(
        (tile0 + tiles * split / params.num_splits) * BLOCK_KV,
        min((tile0 + tiles * (split + 1u) / params.num_splits) * BLOCK_KV, hull.y),
    );
    return RowBlock(b, h_kv, queries, kv_len(b), r0, r1, params.first_split + split, mask_heads, keys, bound);
}

fn is_empty(block: RowBlock) -> bool {
    return block.r0 >= block.r1;
}

// Row r of the block; the last row again beyond it.
fn packed_row(block: RowBlock, r: u32) -> Row {
    let at = min(block.r0 + r, block.r1 - 1u);
    return Row(block.h_kv * params.group_size + at / block.q_len, at % block.q_len);
}

// The class of the tile of BLOCK_KV keys from kv0 on, for all queries of the block's heads; a tile that ends beyond the
// last key is never FULL.
fn kv_tile_class(block: RowBlock, kv0: u32) -> u32 {
    let kv1 = kv0 + BLOCK_KV;
    let tile = Tile(0u, block.q_len, kv0, min(kv1, block.kv_len));
    var least = FULL;
    var most = SKIP;
    for (var h = block.mask_heads.x; h <= block.mask_heads.y; h += 1u) {
        let kind = mask_tile(block.b, h, tile);
        least = min(least, kind);
        most = max(most, kind);
    }
    let kind = select(PARTIAL, least, least == most);
    return class_of_bound(block.b, kind, kv0, kv1, block.bound);
}

// Of the tiles that follow the one at kv0, and are known to be SKIP for all heads as it is, where the last begins.
fn last_skipped(block: RowBlock, kv0: u32) -> u32 {
    var next = next_visited(block.b, block.mask_heads.x, 0u, block.q_len, kv0 + BLOCK_KV);
    for (var h = block.mask_heads.x + 1u; h <= block.mask_heads.y; h += 1u) {
        next = min(next, next_visited(block.b, h, 0u, block.q_len, kv0 + BLOCK_KV));
    }
    return next / BLOCK_KV * BLOCK_KV - BLOCK_KV;
}

// Whether a cell of a PARTIAL tile is kept; cells beyond the keys aren't.
fn cell_kept(block: RowBlock, row: Row, kv_idx: u32) -> bool {
    let inside = is_bound(block.b, kv_idx, block.bound);
    return mask_keep(block.b, row.h, row.q_idx, min(kv_idx, block.kv_len - 1u)) & inside;
}
