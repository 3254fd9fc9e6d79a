// Part of a row from {{FROM}} to {{TENSOR}}: four components.

// needs cache/: incoming_{{FROM}}4
// needs rows/: store_{{TENSOR}}4
// offers append_{{TENSOR}}

fn append_{{TENSOR}}(part: u32, to: vec2<u32>, place: vec2<u32>, h: u32, position: u32) {
    store_{{TENSOR}}4(to.x, h, to.y, part * 4u, incoming_{{FROM}}4(place, h, part * 4u, position));
}
