// cache[b, places[b]] = x[b]; an invocation has 4 columns of a row. A place behind the cache's end is left out.

struct Sizes {
    rows: u32,
    length: u32,
    columns4: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(2) var<storage, read> places: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read_write> cache: array<vec4<f32>>; // [rows, length, columns4]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / sizes.columns4;
    if row >= sizes.rows || places[row] >= sizes.length {
        return;
    }
    let index = (row * sizes.length + places[row]) * sizes.columns4 + id.x % sizes.columns4;
    cache[index] = x[id.x];
}
