// loss = weight (log Σ exp(logits) - logits[label]); an invocation has a row.

struct Sizes {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> logits: array<f32>; // [rows, columns]
@group(0) @binding(2) var<storage, read> labels: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> weights: array<f32>; // [rows]
@group(0) @binding(4) var<storage, read_write> lse: array<f32>; // [rows]
@group(0) @binding(5) var<storage, read_write> losses: array<f32>; // [rows]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    if row >= sizes.rows {
        return;
    }
    let first = row * sizes.columns;
    var largest = logits[first];
    for (var column = 1u; column < sizes.columns; column += 1u) {
        largest = max(largest, logits[first + column]);
    }
    var sum = 0.0;
    for (var column = 0u; column < sizes.columns; column += 1u) {
        sum += exp(logits[first + column] - largest);
    }
    lse[row] = largest + log(sum);
    let label = min(labels[row], sizes.columns - 1u);
    losses[row] = weights[row] * (lse[row] - logits[first + label]);
}
