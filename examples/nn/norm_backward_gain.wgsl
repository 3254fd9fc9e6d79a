// dgain += the sum of dy * x / rms(x) over the rows; an invocation has 4 columns.

struct Sizes {
    rows: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(2) var<storage, read> inverse: array<f32>; // [rows], 1 / rms
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(4) var<storage, read_write> dgain: array<vec4<f32>>; // [columns4]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    if column >= sizes.columns4 {
        return;
    }
    var sum = vec4<f32>();
    for (var row = 0u; row < sizes.rows; row += 1u) {
        let index = row * sizes.columns4 + column;
        sum = fma(dy[index], x[index] * inverse[row], sum);
    }
    dgain[column] += sum;
}
