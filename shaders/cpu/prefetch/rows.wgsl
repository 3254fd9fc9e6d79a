// Asks for a row of {{TENSOR}}, a number of each cache line, which holds {{LINE}} components. Whether one is unlikely.

// needs cpu/prefetch/line: is_unlikely
// needs rows/: load_{{TENSOR}}4
// offers fetch_{{TENSOR}}

fn fetch_{{TENSOR}}(b: u32, h: u32, row: u32) -> bool {
    let place = {{SIDE}}_place(b, row);
    var unlikely = false;
    for (var d = 0u; d < {{CAPACITY}}; d += {{LINE}}) {
        unlikely |= is_unlikely(load_{{TENSOR}}4(place.x, h, place.y, d).x);
    }
    return unlikely;
}
