// Whether the lengths, starts and block tables of the sequences are ones that the problem has room for, and, where tokens
// are appended, whether there is room for these (is_refused). The kernels that follow go by the lengths that are written here.
//
//   mask_words[LENGTHS]       [batch, 2], queries and keys: as given where all is right, else 0 for every sequence
//   mask_words[FAULT_SLOT]    what was found first: 0, or twice the sequence's number + 1 for its queries, + 2 for its keys
//
// One workgroup. `first_fault` is set by the first invocation, lowered by all after a barrier, read after another.

// needs bindings: mask_words, params
// needs cache/ or sequences/: is_refused
// needs constants: FAULT_SLOT, LENGTHS_SLOT, WORKGROUP_SIZE
// needs mask/words: slot_u32
// needs sequences/: given_kv_len, given_q_len, kv_is_faulty, q_is_faulty
// offers sequences_check

const NOTHING: u32 = 0xffffffffu;
// Noted elsewhere: shaders/cache/append.wgsl.
const REFUSED: u32 = 0xfffffffeu;

var<workgroup> first_fault: atomic<u32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn sequences_check(@builtin(local_invocation_index) invocation: u32) {
    if (invocation == 0u) {
        atomicStore(&first_fault, NOTHING);
    }
    workgroupBarrier();
    for (var b = invocation; b < params.batch; b += WORKGROUP_SIZE) {
        if (q_is_faulty(b)) {
            atomicMin(&first_fault, 2u * b + 1u);
        } else if (kv_is_faulty(b)) {
            atomicMin(&first_fault, 2u * b + 2u);
        } else if (is_refused(b)) {
            atomicMin(&first_fault, REFUSED);
        }
    }
    workgroupBarrier();
    let found = atomicLoad(&first_fault);
    if (invocation == 0u && found < REFUSED && mask_words[FAULT_SLOT] == 0u) {
        mask_words[FAULT_SLOT] = found;
    }
    for (var b = invocation; b < params.batch; b += WORKGROUP_SIZE) {
        let at = slot_u32(LENGTHS_SLOT) + 2u * b;
        mask_words[at] = select(0u, given_q_len(b), found == NOTHING);
        mask_words[at + 1u] = select(0u, given_kv_len(b), found == NOTHING);
    }
}
