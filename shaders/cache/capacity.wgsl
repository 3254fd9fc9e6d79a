// Why the new tokens of a sequence can't be added: NO_FAULT, or what the host puts into words.

// needs sequences/: cached_len, given_q_len, has_places, kv_is_faulty, most_cached, q_is_faulty
// offers NO_FAULT, append_fault, is_refused

const NO_FAULT: u32 = 0u;
// More tokens than there is room for.
const NO_ROOM: u32 = 1u;
// A block outside the pool.
const NO_BLOCK: u32 = 2u;
// Lengths or starts that contradict themselves.
const CONTRADICTION: u32 = 3u;

fn append_fault(b: u32) -> u32 {
    if (q_is_faulty(b) | kv_is_faulty(b)) {
        return CONTRADICTION;
    }
    let before = cached_len(b);
    let tokens = given_q_len(b);
    if (tokens > most_cached() - before) {
        return NO_ROOM;
    }
    if (!has_places(b, before, before + tokens)) {
        return NO_BLOCK;
    }
    return NO_FAULT;
}

fn is_refused(b: u32) -> bool {
    return append_fault(b) != NO_FAULT;
}
