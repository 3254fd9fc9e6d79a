// Asks for as many keys and values as there are lanes. Both in one loop, which is too long for Mesa to unroll where rows are:
// lines of rows of 128 in a row would take as long to compile as a fifth of a kernel.
fn fetch_keys(b: u32, h_kv: u32, first: u32, last: u32) -> bool {
    var unlikely = false;
    for (var n = 0u; n < SUBGROUP_SIZE; n += 1u) {
        let row = min(first + n, last);
        unlikely |= fetch_k(b, h_kv, row);
        unlikely |= fetch_v(b, h_kv, row);
    }
    return unlikely;
}
