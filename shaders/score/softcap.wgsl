// softcap (Gemma 2, arXiv 2408.00118, §2): bounds a score to (-softcap, softcap).

fn softcap_score(score: f32) -> f32 {
    // tanh is 1 in f32 long before 15, and some devices' tanh overflows far beyond.
    return params.softcap * tanh(clamp(score / params.softcap, -15.0, 15.0));
}
