// Softmax over keys that come in tiles (Milakov & Gimelshein, arXiv 1805.02867), in powers of two.
//
//   m  the largest score so far, times log2(e)         m' = max(m, max s)
//   l  the sum of the weights so far                   l' = l 2^(m - m') + sum 2^(s - m')
//   o  the sum of the weighted values so far           o' = o 2^(m - m') + sum 2^(s - m') v
//
// Infinities stay out of the arithmetic: a masked score is LOWEST, and a row that has kept nothing yet has m = LOWEST.

const LOWEST: f32 = -3.4028234e38;
const LN_2: f32 = 0.6931471805599453;

// What to subtract before exponentiating: 2^(LOWEST - 0) is 0, where 2^(LOWEST - LOWEST) would be 1.
fn exponent_base(m: f32) -> f32 {
    return select(m, 0.0, m == LOWEST);
}

// 1 / l; a row that kept nothing has l = 0 and o = 0.
fn normalizer(l: f32) -> f32 {
    return select(1.0 / l, 0.0, l == 0.0);
}

// ln of the sum of exp(score) over the kept keys.
fn log_sum_exp(m: f32, l: f32) -> f32 {
    return select((m + log2(l)) * LN_2, params.negative_infinity, l == 0.0);
}
