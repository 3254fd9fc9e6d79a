//! ALiBi (arXiv 2108.12409): a penalty that grows with the distance from the query's own position, by a slope per head.

use super::Modifier;

pub(crate) const ALIBI: Modifier = Modifier {
    name: "ALiBi",
    is_used: |score| score.alibi,
    is_in: |text| text.alibi,
    shader: (
        "shaders/score/alibi.wgsl",
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/score/alibi.wgsl")),
    ),
    wgsl: "alibi_score(score, b, h, q_idx, kv_idx)",
    wgsl_slope: None,
    apply: |score, cell| score - cell.alibi_slope * cell.distance,
    slope: |_, _| 1.0,
};
