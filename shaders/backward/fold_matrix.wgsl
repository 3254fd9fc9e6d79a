// Stores MATRIX components, from d0 on, of a strip's sums of {{TENSOR}}: each row's sums times `unit`, on top of what {{TENSOR}} holds
// of it if `goes_on`, times `factor`. Rows lie at `place`, if they are there.

// needs constants: MATRIX
// needs matrix/lanes: Lane
// needs matrix/strips: S_ROW, s_strips, store_in_strip
// needs rows/: load_{{TENSOR}}4, store_{{TENSOR}}4
// offers fold_{{TENSOR}}

fn fold_{{TENSOR}}(
    place: vec2<u32>,
    h: u32,
    is_there: bool,
    lane: Lane,
    d0: u32,
    sum: Sum,
    unit: f32,
    goes_on: bool,
    factor: f32,
) {
    subgroupBarrier();
    store_in_strip(sum, lane, 0u);
    subgroupBarrier();
    if (is_there) {
        for (var c = lane.x; c < MATRIX / 4u; c += lane.lanes) {
            let d = d0 + c * 4u;
            var value = s_strips[lane.row * S_ROW + c] * unit;
            // Beyond the row's length there is nothing to read but what another invocation writes.
            if (goes_on && d < {{ROW_LENGTH}}) {
                value += load_{{TENSOR}}4(place.x, h, place.y, d);
            }
            store_{{TENSOR}}4(place.x, h, place.y, d, value * factor);
        }
    }
}
