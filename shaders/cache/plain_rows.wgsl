// Rows of {{TENSOR}} as they come, without a rotary embedding.

// needs rows/: load_{{TENSOR}}4
// offers turned_{{TENSOR}}4

fn turned_{{TENSOR}}4(place: vec2<u32>, h: u32, d: u32, position: u32) -> vec4<f32> {
    return load_{{TENSOR}}4(place.x, h, place.y, d);
}
