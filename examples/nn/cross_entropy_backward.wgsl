// dlogits += weight (softmax(logits) - onehot(label)); an invocation has an element.

struct Sizes {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> logits: array<f32>; // [rows, columns]
@group(0) @binding(2) var<storage, read> labels: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> weights: array<f32>; // [rows]
@group(0) @binding(4) var<storage, read> lse: array<f32>; // [rows]
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>; // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / sizes.columns;
    if row >= sizes.rows {
        return;
    }
    let label = min(labels[row], sizes.columns - 1u);
    let share = exp(logits[id.x] - lse[row]) - select(0.0, 1.0, id.x % sizes.columns == label);
    dlogits[id.x] += weights[row] * share;
}
