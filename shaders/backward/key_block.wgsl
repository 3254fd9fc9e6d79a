// Which keys a workgroup has, and which tiles of queries they visit.

// needs bindings: params
// needs constants: BLOCK_KV, BLOCK_Q
// needs generated: mask_keep
// needs mask/algebra: PARTIAL, Tile
// needs mask_tables/: is_surely_empty, mask_tile
// {{OWN}} needs sequences/: kv_place
// {{OWN}} needs sequences/own_rows: is_of_other_window
// {{QUERY_WINDOW}} needs backward/window: count_bound
// {{QUERY_WINDOW}} needs mask/algebra: SKIP
// offers KeyBlock, SKIPPED_RUN, has_no_keys, key_block, key_kept, q_tile_class, skipped_rows

struct KeyBlock {
    b: u32,
    h_kv: u32,
    // The sequence's own lengths.
    q_len: u32,
    kv_len: u32,
    // The keys are [kv0, kv1): none where the sequence ends before kv0.
    kv0: u32,
    kv1: u32,
}

fn key_blocks() -> u32 {
    return (params.seq_len_kv + BLOCK_KV - 1u) / BLOCK_KV;
}

// The first keys first: under a causal mask they have most to do.
fn key_block(index: u32) -> KeyBlock {
    let num_kv_heads = params.num_heads / params.group_size;
    let head_index = index / key_blocks();
    let b = head_index / num_kv_heads;
    let keys = kv_len(b);
    let kv0 = index % key_blocks() * BLOCK_KV;
    return KeyBlock(b, head_index % num_kv_heads, q_len(b), keys, kv0, min(kv0 + BLOCK_KV, keys));
}

fn has_no_keys(block: KeyBlock) -> bool {
    {{OWN}} if (is_of_other_window(kv_place(block.b, block.kv0).y)) {
    {{OWN}}     return true;
    {{OWN}} }
    return block.kv0 >= block.kv1;
}

fn tile_of_queries(block: KeyBlock, q0: u32, rows: u32) -> Tile {
    return Tile(q0, min(q0 + rows, block.q_len), block.kv0, block.kv1);
}

// The class of the tile of BLOCK_Q queries from q0 on; a tile that ends beyond the last query is never FULL.
fn q_tile_class(block: KeyBlock, h: u32, q0: u32) -> u32 {
    {{QUERY_WINDOW}} let bound = count_bound(block.b, q0, BLOCK_Q);
    {{QUERY_WINDOW}} if (bound == 0u) {
    {{QUERY_WINDOW}}     return SKIP;
    {{QUERY_WINDOW}} }
    let kind = mask_tile(block.b, h, tile_of_queries(block, q0, BLOCK_Q));
    {{QUERY_WINDOW}} if (bound < BLOCK_Q) {
    {{QUERY_WINDOW}}     return min(kind, PARTIAL);
    {{QUERY_WINDOW}} }
    return select(kind, min(kind, PARTIAL), q0 + BLOCK_Q > block.q_len);
}

// Whole runs of tiles are left out at once: a power of two, as subgroups and tiles are.
const SKIPPED_RUN: u32 = 32u * BLOCK_Q;

// How many rows from q0 on are known to keep none of the block's keys, where a run begins there.
fn skipped_rows(block: KeyBlock, h: u32, q0: u32) -> u32 {
    if (q0 % SKIPPED_RUN != 0u) {
        return 0u;
    }
    {{QUERY_WINDOW}} if (count_bound(block.b, q0, SKIPPED_RUN) == 0u) {
    {{QUERY_WINDOW}}     return SKIPPED_RUN;
    {{QUERY_WINDOW}} }
    return select(0u, SKIPPED_RUN, is_surely_empty(block.b, h, tile_of_queries(block, q0, SKIPPED_RUN)));
}

// Whether a cell of a PARTIAL tile is kept; cells beyond the sequence aren't.
fn key_kept(block: KeyBlock, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    {{QUERY_WINDOW}} if (count_bound(block.b, q_idx, 1u) == 0u) {
    {{QUERY_WINDOW}}     return false;
    {{QUERY_WINDOW}} }
    let inside = (q_idx < block.q_len) & (kv_idx < block.kv_len);
    let q_last = block.q_len - 1u;
    let kv_last = block.kv_len - 1u;
    return mask_keep(block.b, h, min(q_idx, q_last), min(kv_idx, kv_last)) & inside;
}
