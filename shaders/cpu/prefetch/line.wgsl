// For CPU adapters: prefetching what comes next, by loads that count for nothing else, so that it is in the
// cache when its turn comes: the gathers that take it from there go on to few other lines while they wait for one. What is
// asked for is one number for all lanes, which such drivers load as a core's ordinary loads, many on their way at a time.

// offers is_unlikely

// What no component is likely to be (3.0e38): whether one is has to make a difference, or compilers leave the loads out. As whole
// numbers they compare in fewer instructions.
fn is_unlikely(x: f32) -> bool {
    return bitcast<u32>(x) == 0x7f61b1e6u;
}
