//! A bias: a tensor that is added to the scores (T5, Graphormer). Its own gradient is that of the scores where it is added.

use super::Modifier;

pub(crate) const BIAS: Modifier = Modifier {
    name: "bias",
    is_used: |score| score.bias,
    is_in: |text| text.bias,
    shader: (
        "shaders/score/bias.wgsl",
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/score/bias.wgsl")),
    ),
    wgsl: "bias_score(score, b, h, q_idx, kv_idx)",
    wgsl_slope: None,
    apply: |score, cell| score + cell.bias,
    slope: |_, _| 1.0,
};
