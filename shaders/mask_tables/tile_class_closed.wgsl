// Every leaf of this mask classes its tiles by a closed form.

// needs generated: mask_next, mask_tile_closed
// needs mask/algebra: SKIP, Tile
// offers is_surely_empty, mask_tile, next_visited, visited_hull

fn mask_tile(b: u32, h: u32, tile: Tile) -> u32 {
    return mask_tile_closed(b, h, tile);
}

// Nothing is known that the leaves' own hulls don't tell.
fn visited_hull(b: u32, h: u32, q0: u32, hull: vec2<u32>) -> vec2<u32> {
    return hull;
}

// The first key from kv_idx on that some of the rows may keep.
fn next_visited(b: u32, h: u32, q0: u32, q1: u32, kv_idx: u32) -> u32 {
    return mask_next(b, h, q0, q1, kv_idx);
}

// Whether a tile of any size is known to keep nothing, at the cost of a few comparisons.
fn is_surely_empty(b: u32, h: u32, tile: Tile) -> bool {
    return mask_tile_closed(b, h, tile) == SKIP;
}
