// Softmax over keys that come in tiles (Milakov & Gimelshein, arXiv 1805.02867), in powers of two.
//
//   m  the largest q . k so far                        m' = max(m, max s)
//   l  the sum of the weights so far                   l' = l 2^((m - m') c) + sum 2^((s - m') c)
//   o  the sum of the weighted values so far           o' = o 2^((m - m') c) + sum 2^((s - m') c) v
//
// with c = |scale| log2(e), the scale's sign being in q. Scaling the difference instead of the scores keeps their
// rounding out of the weights and of lse. Where scores are modified (softcap, bias ...), s is the modified score and
// c = log2(e).
//
// Infinities stay out of the arithmetic: a masked score is LOWEST, and a row that has kept nothing yet has m = LOWEST,
// l = 0 and o = 0, which any factor leaves as they are. A masked score's weight is set to 0, not computed.

// needs common/problem: EXPONENT_BITS, NAN_BITS
// offers LN_2, LOWEST, nan_if_lost

const LOWEST: f32 = -3.4028234e38;
const LN_2: f32 = 0.6931471805599453;

// Weights are at most 1, so a sum l that isn't finite comes from a kept NaN or infinity. Some devices' exp2 and log2
// lose a NaN on the way or make an infinity of it; then all its bits are set again, in lse and in what o is multiplied with.
fn nan_if_lost(x: f32, l: f32) -> f32 {
    let bits = bitcast<u32>(l);
    let lost = (bits & EXPONENT_BITS) == EXPONENT_BITS;
    return select(x, bitcast<f32>(bits | NAN_BITS), lost);
}
