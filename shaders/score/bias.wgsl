// bias: a tensor that is added to the scores, broadcast along what has stride 0.

// needs bindings: params
// needs common/problem: element
// needs rows/: read_bias
// offers bias_score

fn bias_score(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {
    return score + read_bias(element(params.bias_strides, params.bias_base, b, h, q_idx, kv_idx));
}
