// Attention sinks (gpt-oss): one logit per head that joins the softmax's denominator and has no value.
// slots: [where the logits lie, f32 [num_heads]]
//
//   M = max(m, sink)    l' = l e^(m - M) + e^(sink - M)    o = o e^(m - M) / l'    lse = M + ln l'

// needs bindings: mask_words, params
// needs common/online_softmax: LN_2, LOWEST, nan_if_lost
// needs common/problem: EXPONENT_BITS, LOG2_E, SIGN_BIT
// needs constants: SINKS_SLOT
// needs mask/words: slot_u32
// offers row_end

struct RowEnd {
    // What o is multiplied with.
    norm: f32,
    lse: f32,
}

fn row_end(h: u32, m: f32, l: f32) -> RowEnd {
    let sink = bitcast<f32>(mask_words[slot_u32(SINKS_SLOT) + h]);
    let kept = l != 0.0;
    // A sink of -inf is none: by the bits, since infinities stay out of the arithmetic.
    let has_sink = bitcast<u32>(sink) != (EXPONENT_BITS | SIGN_BIT);
    // In powers of two, of scaled scores; the lowest numbers would overflow.
    let scaled = select(LOWEST, max(m * params.softmax_scale_log2, LOWEST), kept);
    let sink_scaled = select(LOWEST, max(sink * LOG2_E, LOWEST), has_sink);
    let most = max(scaled, sink_scaled);
    let shrink = select(0.0, exp2(scaled - most), kept);
    let sum = l * shrink + select(0.0, exp2(sink_scaled - most), has_sink);
    let empty = sum == 0.0;
    let base = max(select(LOWEST, m * params.softmax_scale, kept), select(LOWEST, sink, has_sink));
    let lse = base + log2(sum) * LN_2;
    return RowEnd(
        nan_if_lost(select(shrink / sum, 0.0, empty), l),
        nan_if_lost(select(lse, params.negative_infinity, empty), l),
    );
}
