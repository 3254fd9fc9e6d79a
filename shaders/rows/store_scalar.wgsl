// Rows of {{TENSOR}}, of any strides. What lies beyond a row's end isn't written.

// needs bindings: params
// needs common/problem: element
// needs rows/: write_{{TENSOR}}
// offers store_{{TENSOR}}4

fn store_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32, x: vec4<f32>) {
    for (var i = 0u; i < min(4u, {{ROW_LENGTH}} - min(d, {{ROW_LENGTH}})); i += 1u) {
        write_{{TENSOR}}(element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, d + i), x[i]);
    }
}
