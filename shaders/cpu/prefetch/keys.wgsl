// Asks for as many keys and values as there are lanes. Both in one loop, which Mesa leaves a loop where rows are long: unrolled,
// it would be a fifth of the time that a kernel with rows of 128 takes to compile.

// needs constants: SUBGROUP_SIZE
// needs cpu/prefetch/rows: fetch_k, fetch_v
// offers fetch_keys

fn fetch_keys(b: u32, h_kv: u32, first: u32, last: u32) -> bool {
    var unlikely = false;
    for (var n = 0u; n < SUBGROUP_SIZE; n += 1u) {
        let row = min(first + n, last);
        unlikely |= fetch_k(b, h_kv, row);
        unlikely |= fetch_v(b, h_kv, row);
    }
    return unlikely;
}
