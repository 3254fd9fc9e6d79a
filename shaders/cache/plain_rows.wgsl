// needs rows/: load_{{TENSOR}}4
// offers {{KIND}}_{{TENSOR}}4

fn {{KIND}}_{{TENSOR}}4(place: vec2<u32>, h: u32, d: u32, position: u32) -> vec4<f32> {
    return load_{{TENSOR}}4(place.x, h, place.y, d);
}
