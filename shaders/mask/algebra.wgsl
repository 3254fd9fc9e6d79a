// What every mask leaf builds on: three-valued logic over tiles.
//
// A tile is [q0, q1) x [kv0, kv1), not empty, within its sequence. Its class holds for all of its cells:
// SKIP keeps none, FULL keeps all, PARTIAL may do either. A hull [x, y) bounds the keys that any of some rows keeps.

// needs sequences/: kv_len
// offers FULL, PARTIAL, SKIP, Tile, hull_all, hull_and, hull_of, hull_or, tile_and, tile_class, tile_not, tile_or

const SKIP: u32 = 0u;
const PARTIAL: u32 = 1u;
const FULL: u32 = 2u;

struct Tile {
    q0: u32,
    q1: u32,
    kv0: u32,
    kv1: u32,
}

// The class of a tile of which `all` or at least `some` cells are kept.
fn tile_class(all_kept: bool, some_kept: bool) -> u32 {
    return select(select(SKIP, PARTIAL, some_kept), FULL, all_kept);
}

// Kleene's tables: with SKIP < PARTIAL < FULL they are minimum, maximum and reflection.
fn tile_and(a: u32, b: u32) -> u32 {
    return min(a, b);
}

fn tile_or(a: u32, b: u32) -> u32 {
    return max(a, b);
}

fn tile_not(a: u32) -> u32 {
    return FULL - a;
}

fn hull_all(b: u32) -> vec2<u32> {
    return vec2<u32>(0u, kv_len(b));
}

fn hull_and(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(max(a.x, b.x), min(a.y, b.y));
}

fn hull_or(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let both = vec2<u32>(min(a.x, b.x), max(a.y, b.y));
    return select(select(both, a, b.x >= b.y), b, a.x >= a.y);
}

// The hull from two positions, `last` included, that may lie outside the keys.
fn hull_of(b: u32, first: i32, last: i32) -> vec2<u32> {
    return vec2<u32>(u32(max(first, 0)), u32(clamp(last + 1, 0, i32(kv_len(b)))));
}
