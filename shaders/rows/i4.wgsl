// {{TENSOR}} has rows of 4 bits per element, which kernels number through, in groups of 32 elements. Four rows stand together:
// first each one's groups, 16 bits for each, two to a word, then the rows, eight elements to a word. What comes first is in the
// lower bits.
//
// A group's upper 12 bits are its scale, an f32's exponent and the first four bits of its mantissa; the lower 4 are its zero
// point. An element is scale * (its bits - zero point).

// offers groups_of_{{TENSOR}}, read_{{TENSOR}}4, unpack_{{TENSOR}}4, words_of_{{TENSOR}}

// Where the groups of a row of `length` elements lie: behind the rows before its four, and the groups of those within.
fn groups_of_{{TENSOR}}(row: u32, length: u32) -> u32 {
    let groups = (length + 63u) / 64u;
    return row / 4u * 4u * (groups + (length + 7u) / 8u) + row % 4u * groups;
}

// Where its first word lies: behind all rows before it, and the groups to the end of its four.
fn words_of_{{TENSOR}}(row: u32, length: u32) -> u32 {
    let groups = (length + 63u) / 64u;
    let words = (length + 7u) / 8u;
    return row / 4u * 4u * (groups + words) + 4u * groups + row % 4u * words;
}

// Four elements, of the lower 16 bits of both.
fn unpack_{{TENSOR}}4(elements: u32, group: u32) -> vec4<f32> {
    let scale = bitcast<f32>((group & 0xfff0u) << 15u);
    // As the first bits of 16's mantissa they stand for 16 more than what they say.
    let zero = bitcast<f32>(((group & 15u) << 19u) | 0x41800000u);
    let mantissas = (vec4<u32>(elements) << vec4<u32>(19u, 15u, 11u, 7u)) & vec4<u32>(0x00780000u);
    // Exact: each product has ten bits at most.
    return fma(bitcast<vec4<f32>>(mantissas | vec4<u32>(0x41800000u)), vec4<f32>(scale), vec4<f32>(-zero * scale));
}

// The four elements from `d` on of that row.
fn read_{{TENSOR}}4(row: u32, length: u32, d: u32) -> vec4<f32> {
    let elements = {{TENSOR}}[words_of_{{TENSOR}}(row, length) + d / 8u] >> (d % 8u * 4u);
    let group = {{TENSOR}}[groups_of_{{TENSOR}}(row, length) + d / 64u] >> (d / 32u % 2u * 16u);
    return unpack_{{TENSOR}}4(elements, group);
}
