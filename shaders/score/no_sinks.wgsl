// The end of a row without sinks: o = o / l, lse = ln l + m. A row that kept nothing has l = 0 and o = 0.

// needs bindings: params
// needs common/online_softmax: LN_2, nan_if_lost
// offers row_end

struct RowEnd {
    // What o is multiplied with.
    norm: f32,
    // ln of the sum of exp(score) over the kept keys.
    lse: f32,
}

fn row_end(h: u32, m: f32, l: f32) -> RowEnd {
    let empty = l == 0.0;
    let lse = fma(m, params.softmax_scale, log2(l) * LN_2);
    return RowEnd(
        nan_if_lost(select(1.0 / l, 0.0, empty), l),
        nan_if_lost(select(lse, params.negative_infinity, empty), l),
    );
}
