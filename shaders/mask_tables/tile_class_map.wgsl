// Some leaf of this mask has no closed form: the classes were found by mask_tables/tile_map.wgsl, 2 bits each, 16 to a word.

// needs bindings: mask_words
// needs constants: BLOCK_KV, BLOCK_Q
// needs mask/algebra: Tile
// offers is_surely_empty, mask_tile, next_visited, visited_hull

const TILES_PER_WORD: u32 = 16u;

// Where the classes of the tiles of a block of queries begin.
fn tile_map_row(b: u32, h: u32, q0: u32) -> u32 {
    return mask_words[0] + b * mask_words[1] + h * mask_words[2] + q0 / BLOCK_Q * mask_words[3];
}

fn mask_tile(b: u32, h: u32, tile: Tile) -> u32 {
    let column = tile.kv0 / BLOCK_KV;
    let word = mask_words[tile_map_row(b, h, tile.q0) + column / TILES_PER_WORD];
    return (word >> (column % TILES_PER_WORD * 2u)) & 3u;
}

// The hull without the tiles at its ends that the map has as SKIP, passed over by whole words.
fn visited_hull(b: u32, h: u32, q0: u32, hull: vec2<u32>) -> vec2<u32> {
    if (hull.x >= hull.y) {
        return hull;
    }
    let row = tile_map_row(b, h, q0);
    var first = hull.x / BLOCK_KV / TILES_PER_WORD;
    var last = (hull.y - 1u) / BLOCK_KV / TILES_PER_WORD;
    while (first < last && mask_words[row + first] == 0u) {
        first += 1u;
    }
    while (first < last && mask_words[row + last] == 0u) {
        last -= 1u;
    }
    let left = mask_words[row + first];
    let right = mask_words[row + last];
    if (left == 0u || right == 0u) {
        return vec2<u32>(0u);
    }
    let first_tile = first * TILES_PER_WORD + firstTrailingBit(left) / 2u;
    let last_tile = last * TILES_PER_WORD + firstLeadingBit(right) / 2u;
    return vec2<u32>(max(hull.x, first_tile * BLOCK_KV), min(hull.y, (last_tile + 1u) * BLOCK_KV));
}

// The first key from kv_idx on, the first of a tile, whose tile the map doesn't have as SKIP, passed over by whole words: where
// there is none, at most the first of the tile behind the map's.
fn next_visited(b: u32, h: u32, q0: u32, q1: u32, kv_idx: u32) -> u32 {
    let row = tile_map_row(b, h, q0);
    let tile = kv_idx / BLOCK_KV;
    var word = tile / TILES_PER_WORD;
    if (word >= mask_words[3]) {
        return kv_idx;
    }
    var rest = (mask_words[row + word] >> (tile % TILES_PER_WORD * 2u)) << (tile % TILES_PER_WORD * 2u);
    while (rest == 0u && word + 1u < mask_words[3]) {
        word += 1u;
        rest = mask_words[row + word];
    }
    let of_word = select(firstTrailingBit(rest) / 2u, TILES_PER_WORD, rest == 0u);
    return max((word * TILES_PER_WORD + of_word) * BLOCK_KV, kv_idx);
}

// Whether a tile of any size is known to keep nothing: to tell would take reading its part of the map.
fn is_surely_empty(b: u32, h: u32, tile: Tile) -> bool {
    return false;
}
