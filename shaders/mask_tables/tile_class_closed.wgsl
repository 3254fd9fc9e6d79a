// Every leaf of this mask classes its tiles by a closed form.

// needs generated: mask_tile_closed
// needs mask/algebra: SKIP, Tile
// offers is_surely_empty, mask_tile, visited_hull

fn mask_tile(b: u32, h: u32, tile: Tile) -> u32 {
    return mask_tile_closed(b, h, tile);
}

// Nothing is known that the leaves' own hulls don't tell.
fn visited_hull(b: u32, h: u32, q0: u32, hull: vec2<u32>) -> vec2<u32> {
    return hull;
}

// Whether a tile of any size is known to keep nothing, at the cost of a few comparisons.
fn is_surely_empty(b: u32, h: u32, tile: Tile) -> bool {
    return mask_tile_closed(b, h, tile) == SKIP;
}
