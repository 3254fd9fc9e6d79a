// With u = √(2/π) (x + 0.044715 x³): dx += dy ((1 + tanh u) / 2 + x/2 (1 - tanh² u) du/dx)

struct Sizes {
    quads: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>; // [quads]
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>; // [quads]
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>; // [quads]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= sizes.quads {
        return;
    }
    let value = x[id.x];
    let inner = 0.7978845608 * (value + 0.044715 * value * value * value);
    let t = tanh(clamp(inner, vec4<f32>(-10.0), vec4<f32>(10.0)));
    let slope = 0.7978845608 * (1.0 + 3.0 * 0.044715 * value * value);
    dx[id.x] += dy[id.x] * (0.5 * (1.0 + t) + 0.5 * value * (1.0 - t * t) * slope);
}
