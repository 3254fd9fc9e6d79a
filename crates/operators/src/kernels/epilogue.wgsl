// Sizes of a product, its rows, and what becomes of a sum: a bias is added, GELU applied, the result stored or added to y.

struct Sizes {
    rows: u32,
    outputs: u32,
    columns4: u32,
    then: u32, // 1: GELU; 2: added to y; a number rather than a constant, so that kernels are shared
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [rows, columns4]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, outputs]

fn finish(row: u32, output: u32, sum: f32) {
    var value = sum + bias_of(output);
    if (sizes.then & 1u) != 0u {
        value = 0.5 * value * (1.0 + erf(value * 0.70710678));
    }
    let at = row * sizes.outputs + output;
    if (sizes.then & 2u) != 0u {
        y[at] += value;
    } else {
        y[at] = value;
    }
}

/// Within 1.5e-7: Abramowitz and Stegun, 7.1.26.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(x) * (1.0 - series * exp(-x * x));
}
