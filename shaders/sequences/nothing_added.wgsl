// Nothing is added to what the sequences have.

// offers is_refused

fn is_refused(b: u32) -> bool {
    return false;
}
