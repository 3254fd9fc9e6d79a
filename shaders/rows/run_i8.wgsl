// Vector t of a run of {{RUN}} vectors of a row of 8 bits per element, four components each: at most 16 bytes in all. Rows are
// multiples of 16 bytes long, so that they and their scales begin at such, and the index says so: see rows/run_whole. Beyond a
// row's end it is the last run again.

// needs bindings: params
// needs common/problem: element
// needs rows/i8: scale_of_{{TENSOR}}, unpack_{{TENSOR}}4
// offers run_{{TENSOR}}4

fn run_{{TENSOR}}4(b: u32, h: u32, row: u32, run: u32, t: u32) -> vec4<f32> {
    let place = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u);
    let runs = {{ROW_LENGTH}} / (4u * {{RUN}});
    // Runs of four rows and their scales.
    let together = (4u + {{ROW_LENGTH}}) / {{RUN}};
    let first = place / 4u * together + 4u / {{RUN}} + place % 4u * runs + min(run, runs - 1u);
    return unpack_{{TENSOR}}4({{TENSOR}}[first * {{RUN}} + t], {{TENSOR}}[scale_of_{{TENSOR}}(place, {{ROW_LENGTH}})]);
}
