// block_sparse: the key's block of `block` keys is among those that the query's block lists; what is negative lists none.
// The lists are read as bits, one for each block of keys, which mask_tables/block_bits.wgsl makes of them: so nothing that
// kernels ask depends on how long a list is.
// slots: [where the lists lie, i32 [batch, num_heads|num_kv_heads|1, blocks of queries, blocks of a list]; heads of the
//         tensor; blocks of queries; blocks of a list; block; where the bits lie, [batch, heads of the tensor, blocks of
//         queries, words]; words of a list's bits]

// needs bindings: mask_words, params
// needs mask/algebra: Tile, tile_class
// needs mask/words: slot_u32
// needs sequences/lengths_uniform: kv_len
// offers block_sparse_hull, block_sparse_keep, block_sparse_next, block_sparse_tile

// The first word of the bits of a block of queries.
fn block_sparse_bits(slot: u32, b: u32, h: u32, query_block: u32) -> u32 {
    // The heads of a group share a list where the tensor has one for each of k's heads.
    let heads = slot_u32(slot + 1u);
    let head = b * heads + h * heads / params.num_heads;
    return slot_u32(slot + 5u) + (head * slot_u32(slot + 2u) + query_block) * slot_u32(slot + 6u);
}

fn block_sparse_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let block = slot_u32(slot + 4u);
    let key_block = kv_idx / block;
    let word = mask_words[block_sparse_bits(slot, b, h, q_idx / block) + key_block / 32u];
    return ((word >> (key_block % 32u)) & 1u) != 0u;
}

fn block_sparse_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let block = slot_u32(slot + 4u);
    let first = tile.kv0 / block;
    let last = (tile.kv1 - 1u) / block;
    var all_kept = true;
    var some_kept = false;
    for (var query_block = tile.q0 / block; query_block * block < tile.q1; query_block += 1u) {
        let bits = block_sparse_bits(slot, b, h, query_block);
        for (var word = first / 32u; word <= last / 32u; word += 1u) {
            let low = max(first, word * 32u) % 32u;
            let high = min(last, word * 32u + 31u) % 32u;
            let asked = (0xffffffffu << low) & (0xffffffffu >> (31u - high));
            let listed = mask_words[bits + word] & asked;
            all_kept &= listed == asked;
            some_kept |= listed != 0u;
        }
    }
    return tile_class(all_kept, some_kept);
}

// From the first listed block to the last.
fn block_sparse_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    let block = slot_u32(slot + 4u);
    let words = slot_u32(slot + 6u);
    var first = 32u * words;
    var end = 0u;
    for (var query_block = q0 / block; query_block * block < q1; query_block += 1u) {
        let bits = block_sparse_bits(slot, b, h, query_block);
        for (var word = 0u; word < words; word += 1u) {
            let listed = mask_words[bits + word];
            first = min(first, select(word * 32u + firstTrailingBit(listed), first, listed == 0u));
            end = select(max(end, word * 32u + firstLeadingBit(listed) + 1u), end, listed == 0u);
        }
    }
    return vec2<u32>(min(first * block, kv_len(b)), min(end * block, kv_len(b)));
}

// The first key from kv_idx on of a block that one of the queries' blocks lists: without one, where the keys end.
fn block_sparse_next(slot: u32, b: u32, h: u32, q0: u32, q1: u32, kv_idx: u32) -> u32 {
    let block = slot_u32(slot + 4u);
    let words = slot_u32(slot + 6u);
    let own = kv_idx / block;
    var next = 32u * words;
    for (var query_block = q0 / block; query_block * block < q1; query_block += 1u) {
        let bits = block_sparse_bits(slot, b, h, query_block);
        // No further than what another block of queries has found.
        for (var word = own / 32u; word * 32u < next; word += 1u) {
            let listed = mask_words[bits + word] & select(0xffffffffu, 0xffffffffu << (own % 32u), word == own / 32u);
            if (listed != 0u) {
                next = min(next, word * 32u + firstTrailingBit(listed));
                break;
            }
        }
    }
    return max(min(next * block, kv_len(b)), kv_idx);
}
