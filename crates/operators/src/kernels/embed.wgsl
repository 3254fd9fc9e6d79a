// y[row] = table[tokens[row]], or y[row] += it; an invocation has 4 columns of a row.

struct Sizes {
    rows: u32,
    table_rows: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read> tokens: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [rows, columns4]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / sizes.columns4;
    if row >= sizes.rows {
        return;
    }
    // What is out of range counts as the last.
    let token = min(tokens[row], sizes.table_rows - 1u);
    let value = weights_at(token, id.x % sizes.columns4);
    if ACCUMULATE {
        y[id.x] += value;
    } else {
        y[id.x] = value;
    }
}
