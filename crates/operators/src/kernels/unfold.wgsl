// y[row] = x[row * stride - 1], x[row * stride], x[row * stride + 1] side by side, zeros beyond the ends: a convolution with
// a kernel of 3 becomes a product of matrices. An invocation has 4 columns of a row.

struct Sizes {
    rows: u32, // of y
    columns4: u32, // of x
    rows_x: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows_x, columns4]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [rows, 3, columns4]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / (3u * sizes.columns4);
    if row >= sizes.rows {
        return;
    }
    let tap = id.x / sizes.columns4 % 3u;
    // One more than the row of x, so that nothing is negative.
    let source = row * sizes.stride + tap;
    var value = vec4<f32>();
    if source >= 1u && source <= sizes.rows_x {
        value = x[(source - 1u) * sizes.columns4 + id.x % sizes.columns4];
    }
    y[id.x] = value;
}
