// A tile of {{TENSOR}} in workgroup memory, transposed, and matrices of it.

// needs constants: MATRIX
// needs matrix/nonfinite_rows: TURNED_ROW
// offers turned_{{TENSOR}}_matrix, {{TENSOR}}_turned

// [{{CAPACITY}}, OTHER_BLOCK]
var<workgroup> {{TENSOR}}_turned: array<vec4<f16>, {{CAPACITY}} * TURNED_ROW>;

// MATRIX rows from `row` on, MATRIX components each, of which weighted sums are made.
fn turned_{{TENSOR}}_matrix(output: u32, row: u32) -> Right {
    return coopLoad<Right>(&{{TENSOR}}_turned[output * MATRIX * TURNED_ROW + row / 4u], TURNED_ROW);
}
