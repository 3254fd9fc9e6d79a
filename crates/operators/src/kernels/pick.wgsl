// tokens[row] = the column with the largest logit, the first of equal ones; at a temperature above 0 a random one, with the
// probabilities of softmax(logits / temperature): the largest of logits / temperature + Gumbel noise is that. A workgroup
// has a row.

struct Sizes {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> logits: array<f32>; // [rows, columns]
@group(0) @binding(2) var<storage, read> settings: array<u32>; // the temperature's bits; a seed, another in each step
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [columns], added to every row
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>; // [rows]

const LOWEST: f32 = -3.4e38;

var<workgroup> best_values: array<f32, WORKGROUP_SIZE>;
var<workgroup> best_columns: array<u32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let row = workgroup.x;
    let temperature = bitcast<f32>(settings[0]);
    var best = LOWEST;
    var best_column = invocation;
    for (var column = invocation; column < sizes.columns; column += WORKGROUP_SIZE) {
        var value = logits[row * sizes.columns + column] + bias[column];
        if temperature > 0.0 {
            value = value / temperature + gumbel(hash(hash(settings[1] ^ hash(row)) + column));
        }
        if value > best {
            best = value;
            best_column = column;
        }
    }
    best_values[invocation] = best;
    best_columns[invocation] = best_column;
    workgroupBarrier();
    if invocation > 0u {
        return;
    }
    for (var i = 1u; i < min(WORKGROUP_SIZE, sizes.columns); i += 1u) {
        let value = best_values[i];
        if value > best || (value == best && best_columns[i] < best_column) {
            best = value;
            best_column = best_columns[i];
        }
    }
    tokens[row] = best_column;
}

/// A number with the distribution -log(-log(u)), of random bits.
fn gumbel(bits: u32) -> f32 {
    let u = (f32(bits >> 9u) + 0.5) / 8388608.0;
    return -log(-log(u));
}

/// PCG's permutation: Jarzynski and Olano, Hash Functions for GPU Rendering, 2020.
fn hash(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}
