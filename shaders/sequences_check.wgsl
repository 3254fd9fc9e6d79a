// Whether the lengths, starts and block tables of the sequences are ones that the problem has room for. Kernels make good
// what isn't, so that nothing outside their tensors is touched; here it is noted, for the caller to read.
//
// One workgroup. mask_words[FAULT_SLOT] keeps what was found first: 0, or twice the sequence's number + 1 for its queries
// and + 2 for its keys. `first_fault` is set by the first invocation, lowered by all after a barrier, read after another.

const NOTHING: u32 = 0xffffffffu;

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
        }
    }
    workgroupBarrier();
    let found = atomicLoad(&first_fault);
    if (invocation == 0u && found != NOTHING && mask_words[FAULT_SLOT] == 0u) {
        mask_words[FAULT_SLOT] = found;
    }
}
