// Rows of {{TENSOR}}, whose length and strides are multiples of 4. What lies beyond a row's end isn't written.

// needs bindings: params
// needs common/problem: element
// needs rows/: write_{{TENSOR}}4
// offers store_{{TENSOR}}4

fn store_{{TENSOR}}4(b: u32, h: u32, row: u32, d: u32, x: vec4<f32>) {
    if (d < {{ROW_LENGTH}}) {
        write_{{TENSOR}}4(element(params.{{TENSOR}}_strides, params.{{TENSOR}}_base, b, h, row, d) / 4u, x);
    }
}
