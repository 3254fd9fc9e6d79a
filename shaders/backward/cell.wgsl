// A cell's weight and the gradient of its score, recomputed from what the forward pass kept (FlashAttention-2, arXiv
// 2307.08691, algorithm 2, lines 11 to 15).
//
//   p  = exp(score - lse) norm
//   ds = p (dp - delta), and back through what modified the score      the gradient of scale * q . k

// needs bindings: params
// needs common/problem: LOG2_E
// needs constants: MODIFIED
// needs generated: modified_score, score_gradient
// {{DROPOUT}} needs score/dropout: dropout_factor, dropout_row
// offers Cell, cell_of

struct Cell {
    p: f32,
    ds: f32,
    // The gradient of what the bias is added to.
    dbias: f32,
}

// `product` is q . k, `dp` is dout . v, `row` is the row's lse, delta and norm.
fn cell_of(product: f32, dp: f32, row: vec4<f32>, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> Cell {
    let signed = product * params.scale_sign;
    var score = signed;
    if (MODIFIED) {
        score = modified_score(signed, b, h, q_idx, kv_idx);
    }
    let p = exp2(fma(score, params.softmax_scale, -row.x) * LOG2_E) * row.z;
    {{PLAIN}} let gradient = p * (dp - row.y);
    {{DROPOUT}} let gradient = p * (dp * dropout_factor(dropout_row(b, h, q_idx), kv_idx) - row.y);
    if (MODIFIED) {
        let parts = score_gradient(gradient, signed, b, h, q_idx, kv_idx);
        return Cell(p, parts.x, parts.y);
    }
    return Cell(p, gradient, gradient);
}
