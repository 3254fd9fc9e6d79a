// Softmax over keys that come in tiles (Milakov & Gimelshein, arXiv 1805.02867), in powers of two.
//
//   m  the largest q . k so far                        m' = max(m, max s)
//   l  the sum of the weights so far                   l' = l 2^((m - m') c) + sum 2^((s - m') c)
//   o  the sum of the weighted values so far           o' = o 2^((m - m') c) + sum 2^((s - m') c) v
//
// with c = |scale| log2(e), the scale's sign being in q. Scaling the difference instead of the scores keeps their
// rounding out of the weights and of lse.
//
// Infinities stay out of the arithmetic: a masked score is LOWEST, and a row that has kept nothing yet has m = LOWEST,
// l = 0 and o = 0, which any factor leaves as they are. A masked score's weight is set to 0, not computed.

const LOWEST: f32 = -3.4028234e38;
const EXPONENT_BITS: u32 = 0x7f800000u;
const NAN_BITS: u32 = 0x7fc00000u;
const LN_2: f32 = 0.6931471805599453;

// 1 / l; a row that kept nothing has l = 0 and o = 0.
fn normalizer(l: f32) -> f32 {
    return select(1.0 / l, 0.0, l == 0.0);
}

// ln of the sum of exp(score) over the kept keys.
fn log_sum_exp(m: f32, l: f32) -> f32 {
    let lse = select(fma(m, params.scale_abs, log2(l) * LN_2), params.negative_infinity, l == 0.0);
    // Weights are at most 1, so a sum that isn't finite comes from a kept NaN or infinity. Some devices' exp2 and log2
    // lose a NaN on the way; set all its bits again.
    let bits = bitcast<u32>(l);
    let lost = (bits & EXPONENT_BITS) == EXPONENT_BITS;
    return select(lse, bitcast<f32>(bits | NAN_BITS), lost);
}
