//! Softcap (Gemma 2, arXiv 2408.00118, §2): `softcap · tanh(score / softcap)`.

use super::Modifier;

pub(super) const SOFTCAP: Modifier = Modifier {
    name: "softcap",
    is_used: |score| score.softcap.is_some(),
    is_in: |text| text.softcap,
    shader: (
        "shaders/score/softcap.wgsl",
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/score/softcap.wgsl")),
    ),
    wgsl: "softcap_score(score)",
    wgsl_slope: Some("softcap_slope(scaled)"),
    apply: |score, cell| cell.softcap * (score / cell.softcap).tanh(),
    // 1 - tanh^2
    slope: |score, cell| 1.0 - (score / cell.softcap).tanh().powi(2),
};
