// With n = x / rms(x) and g = dy * gain: dx += (g - n * mean(g * n)) / rms(x); an invocation has a row.

struct Sizes {
    rows: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(2) var<storage, read> gain: array<vec4<f32>>; // [columns4]
@group(0) @binding(3) var<storage, read> inverse: array<f32>; // [rows], 1 / rms
@group(0) @binding(4) var<storage, read> dy: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(5) var<storage, read_write> dx: array<vec4<f32>>; // [rows, columns4]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if row >= sizes.rows {
        return;
    }
    let scale = inverse[row];
    var products = vec4<f32>();
    for (var column = 0u; column < sizes.columns4; column += 1u) {
        let index = row * sizes.columns4 + column;
        products = fma(dy[index] * gain[column], x[index] * scale, products);
    }
    let mean = dot(products, vec4<f32>(1.0)) / f32(sizes.columns4 * 4u);
    for (var column = 0u; column < sizes.columns4; column += 1u) {
        let index = row * sizes.columns4 + column;
        dx[index] += (dy[index] * gain[column] - x[index] * scale * mean) * scale;
    }
}
