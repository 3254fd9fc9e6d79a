// y[i] = the mean of x's rows first[i] .. first[i] + count[i], divided by its length; zeros where there are none. A
// workgroup has a row of y.

struct Sizes {
    rows: u32, // of y
    columns4: u32,
    rows_x: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows_x, columns4]
@group(0) @binding(2) var<storage, read> ranges: array<vec2<u32>>; // [rows]: first, count
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [rows, columns4]

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let row = workgroup.x;
    let first = min(ranges[row].x, sizes.rows_x);
    let end = first + min(ranges[row].y, sizes.rows_x - first);
    var squares = 0.0;
    for (var column = invocation; column < sizes.columns4; column += WORKGROUP_SIZE) {
        var sum = vec4<f32>();
        for (var at = first; at < end; at += 1u) {
            sum += x[at * sizes.columns4 + column];
        }
        let mean = sum / f32(max(end - first, 1u));
        squares += dot(mean, mean);
        y[row * sizes.columns4 + column] = mean;
    }
    partial[invocation] = squares;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
        sum += partial[i];
    }
    let scale = inverseSqrt(max(sum, 1e-24));
    for (var column = invocation; column < sizes.columns4; column += WORKGROUP_SIZE) {
        y[row * sizes.columns4 + column] *= scale;
    }
}
