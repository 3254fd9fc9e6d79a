// What a row's weights are multiplied with so that they add up to 1.
//
// lse is kept in f32, so that exp(s - lse) is wrong by up to half the distance between neighbouring numbers there: by
// 2e-6 where lse is 32 to 64, the same for the whole row; and a decode kernel's scores are rounded in another order, which
// is as much again, or a few times that. The kernel that sees all of a row's keys takes this out, for itself and for the
// kernels that follow.
//
// An lse that is another's on purpose (that of more keys than these, where a sequence is split) stays as it is.
// `l` is the sum of the weights, `sink_weight` that of the sink.
fn norm_of(lse: f32, l: f32, h: u32) -> f32 {
    let sum = l + sink_weight(lse, h);
    let rounding = min(5.0e-7 * (4.0 + abs(lse)), 1.0e-3);
    return select(1.0, 1.0 / sum, abs(sum - 1.0) <= rounding);
}
