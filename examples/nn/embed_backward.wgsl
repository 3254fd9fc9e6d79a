// dtable[token] += the sum of dy over the rows with that token. Gathered in order, so that nothing is added atomically;
// an invocation has 4 columns of a row of the table.

struct Sizes {
    rows: u32,
    table_rows: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(2) var<storage, read> tokens: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read_write> dtable: array<vec4<f32>>; // [table_rows, columns4]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x / sizes.columns4;
    if token >= sizes.table_rows {
        return;
    }
    var sum = vec4<f32>();
    for (var row = 0u; row < sizes.rows; row += 1u) {
        if min(tokens[row], sizes.table_rows - 1u) == token {
            sum += dy[row * sizes.columns4 + id.x % sizes.columns4];
        }
    }
    dtable[id.x] += sum;
}
