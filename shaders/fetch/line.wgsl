// For CPU adapters: asking memory ahead of time for what comes next, by loads that count for nothing else.

// Components of a cache line, of f32.
const LINE: u32 = 16u;
// What no component is likely to be: whether one is has to make a difference, or compilers leave the loads out.
const UNLIKELY: f32 = 3.0e38;
