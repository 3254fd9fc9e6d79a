// The mask buffer starts with a table of words, the *slots*: a leaf's constants (its offsets, its bounds, where its
// data lies), so that masks that differ in data alone share one pipeline. The data follows.

// needs bindings: mask_words
// offers slot_i32, slot_u32

fn slot_u32(slot: u32) -> u32 {
    return mask_words[slot];
}

fn slot_i32(slot: u32) -> i32 {
    return bitcast<i32>(mask_words[slot]);
}
