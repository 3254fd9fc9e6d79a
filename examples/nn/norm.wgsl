// y = x / rms(x) * gain, with rms(x) = sqrt(mean(x²) + epsilon); an invocation has a row.

struct Sizes {
    rows: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(2) var<storage, read> gain: array<vec4<f32>>; // [columns4]
@group(0) @binding(3) var<storage, read_write> inverse: array<f32>; // [rows], 1 / rms
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>; // [rows, columns4]

const EPSILON: f32 = 1e-5;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if row >= sizes.rows {
        return;
    }
    var squares = vec4<f32>();
    for (var column = 0u; column < sizes.columns4; column += 1u) {
        let value = x[row * sizes.columns4 + column];
        squares = fma(value, value, squares);
    }
    let mean = dot(squares, vec4<f32>(1.0)) / f32(sizes.columns4 * 4u);
    let scale = inverseSqrt(mean + EPSILON);
    inverse[row] = scale;
    for (var column = 0u; column < sizes.columns4; column += 1u) {
        let index = row * sizes.columns4 + column;
        y[index] = x[index] * scale * gain[column];
    }
}
