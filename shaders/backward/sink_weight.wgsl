// needs bindings: mask_words
// needs common/problem: LOG2_E
// needs constants: SINKS_SLOT
// needs mask/words: slot_u32
// offers sink_weight

fn sink_weight(lse: f32, h: u32) -> f32 {
    return exp2((bitcast<f32>(mask_words[slot_u32(SINKS_SLOT) + h]) - lse) * LOG2_E);
}
