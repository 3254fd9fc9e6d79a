// f16 on every device, with SHADER_F16 or without.

// needs common/problem: EXPONENT_BITS
// offers f16_pack, f16_unpack

fn f16_unpack(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

// What is beyond f16 becomes an infinity, as by IEEE 754; pack2x16float doesn't say.
fn f16_pack(x: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(x);
    let magnitude = bits & vec2<u32>(0x7fffffffu);
    // From 65520 on, f16's largest number isn't the nearest.
    let infinite = magnitude >= vec2<u32>(0x477ff000u);
    let nan = magnitude > vec2<u32>(EXPONENT_BITS);
    let special = ((bits >> vec2<u32>(16u)) & vec2<u32>(0x8000u)) | select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), nan);
    let packed = pack2x16float(select(x, vec2<f32>(0.0), infinite));
    let halves = select(vec2<u32>(packed & 0xffffu, packed >> 16u), special, infinite);
    return halves.x | (halves.y << 16u);
}
