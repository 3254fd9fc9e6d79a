// bf16: the upper half of an f32.

// needs common/problem: EXPONENT_BITS
// offers bf16_pack, bf16_unpack

fn bf16_unpack(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// Rounds to the nearest, to even where two are near; a NaN stays one.
fn bf16_pack(x: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(x);
    let upper = bits >> vec2<u32>(16u);
    let rounded = (bits + vec2<u32>(0x7fffu) + (upper & vec2<u32>(1u))) >> vec2<u32>(16u);
    let nan = (bits & vec2<u32>(0x7fffffffu)) > vec2<u32>(EXPONENT_BITS);
    let halves = select(rounded, upper | vec2<u32>(0x40u), nan);
    return halves.x | (halves.y << 16u);
}
