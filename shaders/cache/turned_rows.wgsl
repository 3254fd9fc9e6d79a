// Rows of {{TENSOR}}, turned by the rotary embedding: x cos - y sin in a pair's first component, x sin + y cos in its second.

// needs bindings: rotary
// needs cache/: is_first, rotary_pair, rotary_partner
// needs cache/rotary: rotary_turn
// needs rows/: load_{{TENSOR}}4
// offers turned_{{TENSOR}}4

fn turned_{{TENSOR}}4(place: vec2<u32>, h: u32, d: u32, position: u32) -> vec4<f32> {
    var x = load_{{TENSOR}}4(place.x, h, place.y, d);
    for (var i = 0u; i < 4u; i += 1u) {
        // Before the first one it wraps around.
        let own = d + i - rotary.first;
        if (own < rotary.dim) {
            let other = rotary.first + rotary_partner(own);
            let y = load_{{TENSOR}}4(place.x, h, place.y, other & ~3u)[other & 3u];
            let turn = rotary_turn(rotary_pair(own), position);
            let sine = select(turn.y, -turn.y, is_first(own));
            x[i] = fma(x[i], turn.x, y * sine);
        }
    }
    return x;
}
