// Stores sums of a lane's row of {{TENSOR}} times `factor`; on top of what {{TENSOR}} holds of it if `goes_on`.

// needs rows/: load_{{TENSOR}}4, store_{{TENSOR}}4
// offers fold_{{TENSOR}}

fn fold_{{TENSOR}}(
    place: vec2<u32>,
    h: u32,
    sums: array<vec4<f32>, {{CAPACITY}} / 4u>,
    goes_on: bool,
    factor: f32,
) {
    for (var i = 0u; i < {{CAPACITY}} / 4u; i += 1u) {
        var sum = sums[i];
        if (goes_on) {
            sum += load_{{TENSOR}}4(place.x, h, place.y, i * 4u);
        }
        store_{{TENSOR}}4(place.x, h, place.y, i * 4u, sum * factor);
    }
}
