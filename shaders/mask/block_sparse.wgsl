// block_sparse: the key's block of `block` keys is among those that the query's block lists; what is negative lists none. Its
// tiles are classed by the tile map.
// slots: [where the lists lie, i32 [batch, num_heads|num_kv_heads|1, blocks of queries, blocks of a list]; words from one
//         sequence and head to the next, 0 where they share them; heads of the tensor; block; blocks of a list]

// needs bindings: params
// needs mask/algebra: Tile, tile_class
// needs mask/words: slot_i32, slot_u32
// needs sequences/lengths_uniform: kv_len
// offers block_sparse_hull, block_sparse_keep, block_sparse_tile

fn block_sparse_list(slot: u32, b: u32, h: u32, query_block: u32) -> u32 {
    // The heads of a group share a list where the tensor has one for each of k's heads.
    let head = h * slot_u32(slot + 3u) / params.num_heads;
    let first = slot_u32(slot) + b * slot_u32(slot + 1u) + head * slot_u32(slot + 2u);
    return first + query_block * slot_u32(slot + 5u);
}

fn block_sparse_has(list: u32, count: u32, key_block: u32) -> bool {
    var has = false;
    for (var at = list; at < list + count; at += 1u) {
        has |= slot_i32(at) == i32(key_block);
    }
    return has;
}

fn block_sparse_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let block = slot_u32(slot + 4u);
    return block_sparse_has(block_sparse_list(slot, b, h, q_idx / block), slot_u32(slot + 5u), kv_idx / block);
}

fn block_sparse_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let block = slot_u32(slot + 4u);
    var all_kept = true;
    var some_kept = false;
    for (var query_block = tile.q0 / block; query_block * block < tile.q1; query_block += 1u) {
        let list = block_sparse_list(slot, b, h, query_block);
        for (var key_block = tile.kv0 / block; key_block * block < tile.kv1; key_block += 1u) {
            let kept = block_sparse_has(list, slot_u32(slot + 5u), key_block);
            all_kept &= kept;
            some_kept |= kept;
        }
    }
    return tile_class(all_kept, some_kept);
}

// From the first listed block to the last.
fn block_sparse_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let block = slot_u32(slot + 4u);
    let count = slot_u32(slot + 5u);
    let blocks = (kv_len(b) + block - 1u) / block;
    var first = blocks;
    var end = 0u;
    for (var query_block = q0 / block; query_block * block < q1; query_block += 1u) {
        let list = block_sparse_list(slot, b, h, query_block);
        for (var at = list; at < list + count; at += 1u) {
            // A negative one is beyond every block.
            let listed = slot_u32(at);
            first = min(first, listed);
            end = max(end, select(0u, listed + 1u, listed < blocks));
        }
    }
    return vec2<u32>(first * block, min(end * block, kv_len(b)));
}
