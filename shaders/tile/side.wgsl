// What a tile has of one side, queries or keys.

// offers Rows

// Rows [first, ..) of one head; what lies beyond `last` reads as `last`.
struct Rows {
    b: u32,
    h: u32,
    first: u32,
    last: u32,
}
