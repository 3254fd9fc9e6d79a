// The kernels of examples/engine.rs around attention. Weights are f16, two in a word. Tokens are numbers in f32, so that all
// kernels have the same bindings.

struct Sizes {
    x_columns: u32,
    y_columns: u32,
    flags: u32,
}

const NORMALIZE: u32 = 1u;
const GELU: u32 = 2u;
const ACCUMULATE: u32 = 4u;

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> weights: array<u32>; // f16 [x columns, y columns]
@group(0) @binding(2) var<storage, read> gains: array<u32>; // f16 [x columns], for NORMALIZE
@group(0) @binding(3) var<storage, read> x: array<f32>; // [rows, x columns]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [rows, y columns]

fn half(word: u32, index: u32) -> f32 {
    return unpack2x16float(word)[index % 2u];
}

/// y = the row of the table of weights that each token names.
@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < sizes.y_columns {
        let at = u32(x[id.y]) * sizes.y_columns + id.x;
        y[id.y * sizes.y_columns + id.x] = half(weights[at / 2u], at);
    }
    _ = gains[0]; // all kernels have all bindings
}

/// y = x W, a column per invocation. NORMALIZE divides x by the root of its mean square, times the gains.
@compute @workgroup_size(64)
fn linear(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= sizes.y_columns {
        return;
    }
    let normalizes = (sizes.flags & NORMALIZE) != 0u;
    var sum = 0.0;
    var squares = 0.0;
    for (var i = 0u; i < sizes.x_columns; i += 1u) {
        let value = x[id.y * sizes.x_columns + i];
        let at = i * sizes.y_columns + id.x;
        let gain = select(1.0, half(gains[i / 2u], i), normalizes);
        squares += value * value;
        sum += value * gain * half(weights[at / 2u], at);
    }
    if normalizes {
        sum *= inverseSqrt(squares / f32(sizes.x_columns) + 1e-5);
    }
    if (sizes.flags & GELU) != 0u {
        sum *= 0.5 + 0.5 * tanh(0.7978846 * (sum + 0.044715 * sum * sum * sum));
    }
    let at = id.y * sizes.y_columns + id.x;
    if (sizes.flags & ACCUMULATE) != 0u {
        sum += y[at];
    }
    y[at] = sum;
}

/// y = the likeliest token of each row.
@compute @workgroup_size(64)
fn pick(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x > 0u {
        return;
    }
    var best = 0u;
    for (var i = 1u; i < sizes.x_columns; i += 1u) {
        if x[id.y * sizes.x_columns + i] > x[id.y * sizes.x_columns + best] {
            best = i;
        }
    }
    y[id.y] = f32(best);
    _ = weights[0] + gains[0];
}
