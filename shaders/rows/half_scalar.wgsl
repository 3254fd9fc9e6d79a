// {{TENSOR}} has 16 bits per element, two to a word, the first in the lower half.

// offers read_{{TENSOR}}

fn read_{{TENSOR}}(at: u32) -> f32 {
    let word = {{WORD}};
    return {{HALF}}_unpack(word)[at % 2u];
}
