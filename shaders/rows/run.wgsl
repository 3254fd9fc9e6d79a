// Vector t of a run of {{RUN}} vectors of a row, four components each.

// needs rows/: load_{{TENSOR}}4
// offers run_{{TENSOR}}4

fn run_{{TENSOR}}4(b: u32, h: u32, row: u32, run: u32, t: u32) -> vec4<f32> {
    return load_{{TENSOR}}4(b, h, row, (run * {{RUN}} + t) * 4u);
}
