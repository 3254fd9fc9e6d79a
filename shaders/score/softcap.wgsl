// softcap (Gemma 2, arXiv 2408.00118, §2): bounds a score to (-softcap, softcap).

// needs bindings: params
// needs common/problem: LOG2_E
// offers softcap_score, softcap_slope

fn softcap_score(score: f32) -> f32 {
    // tanh is 1 in f32 long before 15, and some devices' tanh overflows far beyond.
    return params.softcap * tanh(clamp(score / params.softcap, -15.0, 15.0));
}

// Its derivative, 1 - tanh^2, as 4 e / (1 + e)^2 with e = exp(-2 |x|): the difference would lose its digits near 1.
fn softcap_slope(score: f32) -> f32 {
    let e = exp2(-2.0 * LOG2_E * abs(score / params.softcap));
    return 4.0 * e / ((1.0 + e) * (1.0 + e));
}
