// Asks for as many rows of TENSOR as there are lanes, a number of each cache line, which holds LINE components. Whether one is
// unlikely.
fn fetch_TENSOR(b: u32, h: u32, first: u32, last: u32) -> bool {
    var unlikely = false;
    for (var n = 0u; n < SUBGROUP_SIZE; n += 1u) {
        let place = SIDE_place(b, min(first + n, last));
        for (var d = 0u; d < LENGTH; d += LINE) {
            unlikely |= is_unlikely(load_TENSOR4(place.x, h, place.y, d).x);
        }
    }
    return unlikely;
}
