// TENSOR has 16 bits per element, two to a word, the first in the lower half.

fn read_TENSOR(at: u32) -> f32 {
    let word = HALF_WORD;
    return HALF_unpack(word)[at % 2u];
}
