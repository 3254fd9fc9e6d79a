// AdamW (Loshchilov and Hutter, arXiv 1711.05101):
//
//   m <- β1 m + (1 - β1) g
//   v <- β2 v + (1 - β2) g²
//   p <- p - rate (m̂ / (√v̂ + ε) + decay p), where m̂ = m / (1 - β1ᵗ), v̂ = v / (1 - β2ᵗ)

struct Sizes {
    quads: u32,
    decays: u32,
}

struct Settings {
    rate: f32,
    decay: f32,
    m_correction: f32, // 1 - β1ᵗ
    v_correction: f32, // 1 - β2ᵗ
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> settings: Settings;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<f32>>; // [quads]
@group(0) @binding(3) var<storage, read_write> m: array<vec4<f32>>; // [quads]
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>; // [quads]
@group(0) @binding(5) var<storage, read_write> parameter: array<vec4<f32>>; // [quads]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= sizes.quads {
        return;
    }
    let g = gradient[id.x];
    let mean = BETA1 * m[id.x] + (1.0 - BETA1) * g;
    let square = BETA2 * v[id.x] + (1.0 - BETA2) * g * g;
    m[id.x] = mean;
    v[id.x] = square;
    let direction =
        mean / settings.m_correction / (sqrt(square / settings.v_correction) + vec4<f32>(1e-8));
    let decay = select(0.0, settings.decay, sizes.decays != 0u);
    parameter[id.x] -= settings.rate * (direction + decay * parameter[id.x]);
}
