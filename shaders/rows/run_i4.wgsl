// Vector t of the two that a word of a row has, of 4 bits per element. Beyond a row's end it is the last word again.

// needs bindings: params
// needs common/problem: element
// needs rows/i4: groups_of_{{TENSOR}}, unpack_{{TENSOR}}4, words_of_{{TENSOR}}
// offers run_{{TENSOR}}4

const_assert {{RUN}} == 2u;

fn run_{{TENSOR}}4(b: u32, h: u32, row: u32, run: u32, t: u32) -> vec4<f32> {
    let place = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u);
    let own = min(run, {{ROW_LENGTH}} / 8u - 1u);
    let elements = {{TENSOR}}[words_of_{{TENSOR}}(place, {{ROW_LENGTH}}) + own] >> (t * 16u);
    let group = {{TENSOR}}[groups_of_{{TENSOR}}(place, {{ROW_LENGTH}}) + own / 8u] >> (own / 4u % 2u * 16u);
    return unpack_{{TENSOR}}4(elements, group);
}
