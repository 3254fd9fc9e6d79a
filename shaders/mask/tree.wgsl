// tree: the last q_len(b) keys are the queries' own tokens, a tree given by each token's parent, -1 for a root. A query
// keeps the keys before the tree, itself and its ancestors. Parents come before their children: an id that doesn't is
// taken for a root, so the walk ends.
// slots: [where the parents lie, i32 [batch, seq_len_q]]

// needs bindings: mask_words, params
// needs mask/algebra: Tile, hull_of, tile_class
// needs mask/words: slot_u32
// needs sequences/positions: diagonal
// offers tree_hull, tree_keep, tree_tile

fn tree_keep(slot: u32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {
    let token = i32(kv_idx) - diagonal(b);
    var at = i32(q_idx);
    while (at > token) {
        let parent = bitcast<i32>(mask_words[slot_u32(slot) + b * params.seq_len_q + u32(at)]);
        at = select(-1, parent, (parent >= 0) & (parent < at));
        if (at < 0) {
            break;
        }
    }
    return (token < 0) | (at == token);
}

fn tree_tile(slot: u32, b: u32, h: u32, tile: Tile) -> u32 {
    let root = diagonal(b);
    return tile_class(i32(tile.kv1) <= root, i32(tile.kv0) < i32(tile.q1) + root);
}

fn tree_hull(slot: u32, b: u32, h: u32, q0: u32, q1: u32) -> vec2<u32> {
    return hull_of(b, 0, i32(q1) - 1 + diagonal(b));
}
