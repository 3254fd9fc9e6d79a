// Components 2i and 2i + 1 are a pair.

// offers is_first, rotary_pair, rotary_partner

fn rotary_pair(d: u32) -> u32 {
    return d / 2u;
}

fn rotary_partner(d: u32) -> u32 {
    return d ^ 1u;
}

fn is_first(d: u32) -> bool {
    return d % 2u == 0u;
}
