// Nothing is added to what the sequences have.
fn is_refused(b: u32) -> bool {
    return false;
}
