// y = a + b

struct Sizes {
    quads: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [quads]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>; // [quads]
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // [quads]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < sizes.quads {
        y[id.x] = a[id.x] + b[id.x];
    }
}
