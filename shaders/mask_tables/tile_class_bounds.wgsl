// Every leaf of this mask classes tiles of any size by bounds of its data or by a closed form, and no map says which tiles are
// visited. They are found by runs of tiles: one that is SKIP is passed over whole, and behind it a longer one is tried; one
// that isn't is looked at in shorter ones. So the way to a tile far off takes about as many steps as its distance has digits.

// needs constants: BLOCK_KV, BLOCK_Q
// needs generated: mask_next, mask_tile_closed
// needs mask/algebra: SKIP, Tile
// needs sequences/lengths_uniform: kv_len, q_len
// offers is_surely_empty, mask_tile, next_visited, visited_hull

// How much longer a longer run is.
const LONGER: u32 = 8u;

fn mask_tile(b: u32, h: u32, tile: Tile) -> u32 {
    return mask_tile_closed(b, h, tile);
}

// From the tile of kv_idx on, the first tile that isn't SKIP: its first key, or kv_idx if it lies within. Where there is none, where
// the keys end or behind.
fn next_visited(b: u32, h: u32, q0: u32, q1: u32, kv_idx: u32) -> u32 {
    let keys = kv_len(b);
    var kv0 = mask_next(b, h, q0, q1, kv_idx) / BLOCK_KV * BLOCK_KV;
    var run = BLOCK_KV;
    while (kv0 < keys) {
        if (mask_tile_closed(b, h, Tile(q0, q1, kv0, min(kv0 + run, keys))) == SKIP) {
            kv0 += run;
            run *= select(1u, LONGER, kv0 % (run * LONGER) == 0u);
        } else if (run > BLOCK_KV) {
            run /= LONGER;
        } else {
            break;
        }
    }
    return max(kv0, kv_idx);
}

// The hull without the SKIP tiles at its ends.
fn visited_hull(b: u32, h: u32, q0: u32, hull: vec2<u32>) -> vec2<u32> {
    let q1 = min(q0 + BLOCK_Q, q_len(b));
    if (q0 >= q1 || hull.x >= hull.y) {
        return vec2<u32>(0u);
    }
    let first = next_visited(b, h, q0, q1, hull.x);
    var end = hull.y;
    var run = BLOCK_KV;
    while (end > first) {
        let kv0 = (end - 1u) / run * run;
        if (mask_tile_closed(b, h, Tile(q0, q1, kv0, end)) == SKIP) {
            end = kv0;
            run *= select(1u, LONGER, end % (run * LONGER) == 0u);
        } else if (run > BLOCK_KV) {
            run /= LONGER;
        } else {
            break;
        }
    }
    return select(vec2<u32>(0u), vec2<u32>(first, end), first < end);
}

// Whether a tile of any size is known to keep nothing, at the cost of a few comparisons.
fn is_surely_empty(b: u32, h: u32, tile: Tile) -> bool {
    return mask_tile_closed(b, h, tile) == SKIP;
}
