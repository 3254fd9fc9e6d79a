// What a row's weights are multiplied with so that they add up to 1.
//
// lse is kept in f32, so that exp(s - lse) is wrong by up to half the distance between neighbouring numbers there: by
// 2e-6 where lse is 32 to 64, the same for the whole row; and a decode kernel's scores are rounded in another order, which
// is as much again, or a few times that. The kernel that sees all of a row's keys takes this out, for itself and for the
// kernels that follow.
//
// `l` is the sum of the weights, `sink_weight` that of the sink; both are 0 in a row that keeps nothing.

// needs backward/: sink_weight
// offers norm_of

fn norm_of(lse: f32, l: f32, h: u32) -> f32 {
    let sum = l + sink_weight(lse, h);
    return select(1.0, 1.0 / sum, sum > 0.0);
}
