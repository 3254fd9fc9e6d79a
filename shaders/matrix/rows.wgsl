// Rows of {{TENSOR}} in workgroup memory, and matrices of them. Before the first tile the workgroup's own rows lie here, while they
// are loaded into matrices.

// needs constants: MATRIX, OTHER_BLOCK
// offers own_{{TENSOR}}_matrix, {{TENSOR}}_ROW, {{TENSOR}}_matrix, {{TENSOR}}_tile

// Vectors from one row to the next: 16 bytes more than they hold, for the banks' sake.
const {{TENSOR}}_ROW: u32 = {{CAPACITY}} / 4u + 2u;

// [OTHER_BLOCK, {{CAPACITY}}]
var<workgroup> {{TENSOR}}_tile: array<vec4<f16>, OTHER_BLOCK * {{TENSOR}}_ROW>;

// MATRIX rows from `row` on, by which rows are multiplied.
fn {{TENSOR}}_matrix(row: u32, inner: u32) -> Right {
    return coopLoad<Right>(&{{TENSOR}}_tile[row * {{TENSOR}}_ROW + inner * MATRIX / 4u], {{TENSOR}}_ROW);
}

// The same of own rows.
fn own_{{TENSOR}}_matrix(row: u32, inner: u32) -> Left {
    return coopLoadT<Left>(&{{TENSOR}}_tile[row * {{TENSOR}}_ROW + inner * MATRIX / 4u], {{TENSOR}}_ROW);
}
