// Vector t of a run of {{RUN}} vectors of a row, four components each. Runs are multiples of 16 bytes from the tensor's first
// element on, and the index says so: else compilers that look after robustness don't load a run's vectors together.

// needs bindings: params
// needs common/problem: element
// needs rows/: read_{{TENSOR}}4
// offers run_{{TENSOR}}4

fn run_{{TENSOR}}4(b: u32, h: u32, row: u32, run: u32, t: u32) -> vec4<f32> {
    let first = element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, 0u) / (4u * {{RUN}}) + run;
    return read_{{TENSOR}}4(first * {{RUN}} + t);
}
