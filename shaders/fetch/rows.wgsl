// Asks for as many rows of TENSOR as there are lanes, a number of each cache line, so that the turn that comes to them finds
// them in the cache: where it loads them, few lines are on their way at a time. Whether a number is UNLIKELY.
fn fetch_TENSOR(b: u32, h: u32, first: u32, last: u32, lane: u32) -> bool {
    const LINES: u32 = LENGTH / LINE;
    var unlikely = false;
    for (var turn = 0u; turn < LINES; turn += 1u) {
        let line = turn * SUBGROUP_SIZE + lane;
        let place = SIDE_place(b, min(first + line / LINES, last));
        unlikely |= load_TENSOR4(place.x, h, place.y, line % LINES * LINE).x == UNLIKELY;
    }
    return unlikely;
}
