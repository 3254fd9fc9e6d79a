// Gradients of scores in f16, whose range is small: a row's are multiplied with a unit of the row's own, a power of two, before
// they are rounded, and its sums are divided by it at the end. So f16's 11 bits are relative to the largest gradients of the row,
// whatever their magnitude.
//
// The unit follows from the largest gradient of the first part that has one, and leaves it room to grow by 2^8. Only where a
// later one is larger is there another unit, and the sums are rescaled, without a rounding.
//
// Magnitudes are compared as the bits of absolute values, in whose order infinities and NaN come last.

// needs common/problem: SIGN_BIT
// offers inverse, magnitude, outgrows, row_magnitude, unit_for

// What the largest gradient is multiplied to, at least and before there is another unit.
const LEAST_EXPONENT: u32 = 7u;
const OUTGROWN: f32 = 32768.0;
const EXPONENT_BIAS: u32 = 127u;

fn magnitude(x: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(x) & vec4<u32>(~SIGN_BIT);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

fn row_magnitude(own: u32, lanes: u32) -> u32 {
    var most = own;
    for (var step = 1u; step < lanes; step *= 2u) {
        most = max(most, subgroupShuffleXor(most, step));
    }
    return most;
}

// A row without gradients so far has the unit 0.
fn outgrows(largest: u32, unit: f32) -> bool {
    return (unit == 0.0 && largest != 0u) || bitcast<f32>(largest) * unit >= OUTGROWN;
}

// The inverse is a normal number, too.
fn unit_for(largest: u32) -> f32 {
    let exponent = 2u * EXPONENT_BIAS + LEAST_EXPONENT - (largest >> 23u);
    return bitcast<f32>(clamp(exponent, 1u, 2u * EXPONENT_BIAS - 1u) << 23u);
}

// What the row's sums are multiplied with.
fn inverse(unit: f32) -> f32 {
    return select(1.0 / unit, 0.0, unit == 0.0);
}
