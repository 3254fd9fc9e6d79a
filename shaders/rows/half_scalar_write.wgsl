// Neighbours in one word may belong to two invocations: each clears and sets its own half, so their order is all one.

// offers write_{{TENSOR}}

fn write_{{TENSOR}}(at: u32, x: f32) {
    let shift = at % 2u * 16u;
    let bits = {{HALF}}_pack(vec2<f32>(x, 0.0)) & 0xffffu;
    atomicAnd(&{{TENSOR}}[at / 2u], ~(0xffffu << shift));
    atomicOr(&{{TENSOR}}[at / 2u], bits << shift);
}
