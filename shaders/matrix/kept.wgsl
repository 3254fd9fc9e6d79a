// Which of the other side's rows a lane's own row keeps, in a part of a PARTIAL tile: bit 4 i + j is for component j of the
// lane's vector i.

// needs constants: VECTORS
// needs matrix/lanes: Lane
// needs matrix/strips: PART4
// offers keeps_some_of, kept_bits, kept_vector

const COMPONENT_BITS: vec4<u32> = vec4<u32>(1u, 2u, 4u, 8u);
const_assert VECTORS <= 8u;

fn kept_bits(keep: vec4<bool>, i: u32) -> u32 {
    let bits = select(vec4<u32>(0u), COMPONENT_BITS, keep);
    return (bits.x | bits.y | bits.z | bits.w) << (i * 4u);
}

fn kept_vector(kept: u32, i: u32) -> vec4<bool> {
    return (vec4<u32>(kept >> (i * 4u)) & COMPONENT_BITS) != vec4<u32>(0u);
}

// Whether the own row keeps one of the part's rows whose bits are set in `rows`.
fn keeps_some_of(rows: u32, kept: u32, lane: Lane) -> bool {
    var found = 0u;
    for (var i = 0u; i < PART4 / lane.lanes; i += 1u) {
        let column = i * lane.lanes + lane.x;
        found |= (rows >> (column * 4u)) & (kept >> (i * 4u)) & 15u;
    }
    return found != 0u;
}
