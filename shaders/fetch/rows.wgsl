// Asks for a row of TENSOR, a number of each cache line, which holds LINE components. Whether one is unlikely.
fn fetch_TENSOR(b: u32, h: u32, row: u32) -> bool {
    let place = SIDE_place(b, row);
    var unlikely = false;
    for (var d = 0u; d < LENGTH; d += LINE) {
        unlikely |= is_unlikely(load_TENSOR4(place.x, h, place.y, d).x);
    }
    return unlikely;
}
