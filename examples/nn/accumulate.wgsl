// sum += x

struct Sizes {
    quads: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [quads]
@group(0) @binding(2) var<storage, read_write> sum: array<vec4<f32>>; // [quads]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < sizes.quads {
        sum[id.x] += x[id.x];
    }
}
