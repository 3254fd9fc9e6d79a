// Rotary position embedding (RoPE, arXiv 2104.09864): pair i of a row at a position is turned by position * frequency[i].
//
// Angles are fractions of a turn in fixed point: rotary.steps holds each frequency as 64 bits of a turn, and a product
// that wraps around loses whole turns and nothing else. So an angle is as exact at the last position as at the first, and
// sines and cosines are to an f32's last bits, whatever the device's own are.

// needs bindings: rotary
// offers Rotary, rotary_turn

struct Rotary {
    // Two pairs to a vector: high and low word of each.
    steps: array<vec4<u32>, 144>,
    // How many components of a row are turned, and the first one.
    dim: u32,
    first: u32,
}

// The high 32 bits of a * b.
fn high_product(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let low = a0 * b1 + (middle & 0xffffu);
    return a1 * b1 + (middle >> 16u) + (low >> 16u);
}

// cos and sin of the angle of a pair.
fn rotary_turn(pair: u32, position: u32) -> vec2<f32> {
    let steps = rotary.steps[pair / 2u];
    let step = select(steps.xy, steps.zw, pair % 2u == 1u);
    let phase = position * step.x + high_product(position, step.y);
    // The nearest quarter of a turn, and the angle from there, at most an eighth of a turn.
    let quarter = (phase + 0x20000000u) >> 30u;
    let x = f32(bitcast<i32>(phase - (quarter << 30u))) * 1.4629180792671596e-9;
    let x2 = x * x;
    let sine = x + x * x2 * fma(x2, fma(x2, fma(x2, 2.7557319e-6, -1.9841270e-4), 8.3333333e-3), -0.16666667);
    let cosine = fma(x2, fma(x2, fma(x2, fma(x2, fma(x2, -2.7557319e-7, 2.4801587e-5), -1.3888889e-3), 4.1666667e-2), -0.5), 1.0);
    switch quarter {
        case 1u: { return vec2<f32>(-sine, cosine); }
        case 2u: { return vec2<f32>(-cosine, -sine); }
        case 3u: { return vec2<f32>(sine, -cosine); }
        default: { return vec2<f32>(cosine, sine); }
    }
}
