// Attention sinks (gpt-oss): one logit per head that joins the softmax's denominator and has no value.
// slots: [where the logits lie, f32 [num_heads]]
//
//   M = max(m, sink)    l' = l e^(m - M) + e^(sink - M)    o = o e^(m - M) / l'    lse = M + ln l'

struct RowEnd {
    // What o is multiplied with.
    norm: f32,
    lse: f32,
}

fn row_end(h: u32, m: f32, l: f32) -> RowEnd {
    let sink = bitcast<f32>(mask_words[slot_u32(SINKS_SLOT) + h]);
    let kept = l != 0.0;
    // In powers of two, of scaled scores.
    let scaled = select(LOWEST, m * params.softmax_scale_log2, kept);
    let sink_scaled = sink * LOG2_E;
    let most = max(scaled, sink_scaled);
    let shrink = exp2(scaled - most);
    let sum = l * shrink + exp2(sink_scaled - most);
    let base = max(select(LOWEST, m * params.softmax_scale, kept), sink);
    return RowEnd(shrink / sum, nan_if_lost(base + log2(sum) * LN_2, l));
}
