// y = (x - mean) / sqrt(variance + epsilon) * gain + shift, or without CENTERED y = x / sqrt(mean(x²) + epsilon) * gain.
// A workgroup has a row.

struct Sizes {
    rows: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(2) var<storage, read> gain: array<vec4<f32>>; // [columns4]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [rows, columns4]

var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let row = workgroup.x;
    let first = row * sizes.columns4;
    let columns = f32(sizes.columns4 * 4u);
    var mean = 0.0;
    if CENTERED {
        var sum = vec4<f32>();
        for (var column = invocation; column < sizes.columns4; column += WORKGROUP_SIZE) {
            sum += x[first + column];
        }
        mean = total(invocation, sum) / columns;
    }
    var squares = vec4<f32>();
    for (var column = invocation; column < sizes.columns4; column += WORKGROUP_SIZE) {
        let value = x[first + column] - mean;
        squares = fma(value, value, squares);
    }
    let scale = inverseSqrt(total(invocation, squares) / columns + EPSILON);
    keep_scale(row, invocation, scale);
    for (var column = invocation; column < sizes.columns4; column += WORKGROUP_SIZE) {
        let value = (x[first + column] - mean) * scale * gain[column];
        y[first + column] = value + shift_of(column);
    }
}

/// The sum over all invocations and components.
fn total(invocation: u32, value: vec4<f32>) -> f32 {
    partial[invocation] = dot(value, vec4<f32>(1.0));
    workgroupBarrier();
    for (var width = WORKGROUP_SIZE / 2u; width > 0u; width /= 2u) {
        if invocation < width {
            partial[invocation] += partial[invocation + width];
        }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier();
    return sum;
}
