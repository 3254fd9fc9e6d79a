// buckets: in some round of hashing, the key's bucket is that of the query's own position. Its tiles are classed by
// bounds of the ids.
// slots: [where the ids lie, i32 [batch, num_heads|1, rounds, seq_len_kv]; words from one sequence and head to the
//         next, 0 where the heads share them; rounds]

// needs bindings: mask_words, params
// needs mask/algebra: SKIP, Tile, hull_all, tile_class
// needs mask/words: slot_u32
// needs mask_tables/: words_range
// needs sequences/positions: own_position
// offers buckets_hull, buckets_keep, buckets_tile

fn buckets_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let first = slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u);
    let own = own_position(b, q_idx);
    // An own position before the first key has no bucket.
    let own_key = u32(max(own, 0));
    var same = false;
    for (var round = 0u; round < slot_u32(slot + 3u); round += 1u) {
        let row = first + round * params.seq_len_kv;
        same |= mask_words[row + own_key] == mask_words[row + kv_idx];
    }
    return same & (own >= 0);
}

fn buckets_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let ids = slot_u32(slot) + b * slot_u32(slot + 1u) + h * slot_u32(slot + 2u);
    let first = own_position(b, tile.q0);
    let last = own_position(b, tile.q1 - 1u);
    if (last < 0) {
        return SKIP;
    }
    var all_kept = false;
    var some_kept = false;
    for (var round = 0u; round < slot_u32(slot + 3u); round += 1u) {
        let row = ids + round * params.seq_len_kv;
        let own = words_range(row + u32(max(first, 0)), row + u32(last) + 1u, 1u);
        let kv = words_range(row + tile.kv0, row + tile.kv1, 1u);
        all_kept |= (own.x == kv.y) & (own.y == kv.x);
        some_kept |= (own.x <= kv.y) & (own.y >= kv.x);
    }
    return tile_class(all_kept & (first >= 0), some_kept);
}

fn buckets_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_all(b);
}
