// Components i and i + rotary_dim / 2 are a pair.

// needs bindings: rotary
// offers is_first, rotary_pair, rotary_partner

fn rotary_pair(d: u32) -> u32 {
    return d % (rotary.dim / 2u);
}

fn rotary_partner(d: u32) -> u32 {
    let half = rotary.dim / 2u;
    return select(d - half, d + half, d < half);
}

fn is_first(d: u32) -> bool {
    return d < rotary.dim / 2u;
}
