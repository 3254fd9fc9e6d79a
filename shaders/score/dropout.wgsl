// Dropout on the weights, after the softmax: the same cells in every kernel, as src/score/dropout.rs has them.
// slots: [where the seed lies, u32 [2]; p in units of 2^-32; 1 / (1 - p), f32]
//
//   w = p / l    dropped: w = 0, else w / (1 - p)    l and lse are those of all weights

// needs bindings: mask_words
// needs constants: DROPOUT_SLOT
// needs mask/words: slot_u32
// offers dropout_factor, dropout_keeps, dropout_row, dropout_scale

// A permutation of 32 bits in which each bit of the result depends on every bit (lowbias32).
fn dropout_mixed(word: u32) -> u32 {
    var x = (word ^ (word >> 16u)) * 0x21f0aaadu;
    x = (x ^ (x >> 15u)) * 0xd35a2d97u;
    return x ^ (x >> 15u);
}

fn dropout_state(before: vec2<u32>, word: u32) -> vec2<u32> {
    let x = dropout_mixed(before.x ^ word);
    return vec2<u32>(x, dropout_mixed(before.y + x));
}

// What a row's cells share. Compilers take what the loops don't change out of them.
fn dropout_row(b: u32, h: u32, q_idx: u32) -> vec2<u32> {
    let seed = slot_u32(DROPOUT_SLOT);
    let first = dropout_mixed(mask_words[seed]);
    let start = vec2<u32>(first, dropout_mixed(mask_words[seed + 1u] + first));
    return dropout_state(dropout_state(dropout_state(start, b), h), q_idx);
}

fn dropout_keeps(row: vec2<u32>, kv_idx: u32) -> bool {
    return dropout_mixed(dropout_mixed(kv_idx ^ row.x) + row.y) >= slot_u32(DROPOUT_SLOT + 1u);
}

// What the weights that are kept are multiplied with.
fn dropout_scale() -> f32 {
    return bitcast<f32>(slot_u32(DROPOUT_SLOT + 2u));
}

// What a cell's weight is multiplied with.
fn dropout_factor(row: vec2<u32>, kv_idx: u32) -> f32 {
    return select(0.0, dropout_scale(), dropout_keeps(row, kv_idx));
}
