// Stores sums of a slice of {{TENSOR}}'s rows first .. first + 3 times `factors`; on top of what {{TENSOR}} holds of them if `goes_on`. Rows from
// `end` on aren't there.

// needs constants: THREADS_PER_ROW
// needs rows/: load_{{TENSOR}}4, store_{{TENSOR}}4
// needs tile/rows: slice_start
// offers fold_{{TENSOR}}

fn fold_{{TENSOR}}(
    b: u32,
    h: u32,
    first: u32,
    end: u32,
    x: u32,
    sums: ptr<function, array<array<vec4<f32>, {{SLICE}} / 4u / THREADS_PER_ROW>, 4>>,
    goes_on: bool,
    factors: vec4<f32>,
) {
    // A row at a time and by value: what a loop indexes that a compiler doesn't unroll lies in memory.
    fold_row_{{TENSOR}}(b, h, first, end, x, (*sums)[0], goes_on, factors.x);
    fold_row_{{TENSOR}}(b, h, first + 1u, end, x, (*sums)[1], goes_on, factors.y);
    fold_row_{{TENSOR}}(b, h, first + 2u, end, x, (*sums)[2], goes_on, factors.z);
    fold_row_{{TENSOR}}(b, h, first + 3u, end, x, (*sums)[3], goes_on, factors.w);
}

fn fold_row_{{TENSOR}}(
    b: u32,
    h: u32,
    row: u32,
    end: u32,
    x: u32,
    sums: array<vec4<f32>, {{SLICE}} / 4u / THREADS_PER_ROW>,
    goes_on: bool,
    factor: f32,
) {
    if (row < end) {
        let place = {{SIDE}}_place(b, row);
        for (var i = 0u; i < {{SLICE}} / 4u / THREADS_PER_ROW; i += 1u) {
            let d = slice_start({{SLICE}}) + (x + i * THREADS_PER_ROW) * 4u;
            var sum = sums[i];
            // Beyond the row's length there is nothing to read but what another invocation writes.
            if (goes_on && d < {{ROW_LENGTH}}) {
                sum += load_{{TENSOR}}4(place.x, h, place.y, d);
            }
            store_{{TENSOR}}4(place.x, h, place.y, d, sum * factor);
        }
    }
}
