// How often the workgroup's invocations take one of `count` things each, and whether there is one left for `at`.

// needs tile/rows: INVOCATIONS
// offers is_turn, turns

fn turns(count: u32) -> u32 {
    return (count + INVOCATIONS - 1u) / INVOCATIONS;
}

fn is_turn(at: u32, count: u32) -> bool {
    return count % INVOCATIONS == 0u || at < count;
}
