// For a block_sparse: the bits of its lists, one for each block of keys, [batch, heads of the tensor, blocks of queries,
// words]. What lists no block of keys, negative or beyond them, has none.
//
// One invocation per word.

// needs bindings: mask_words, params
// needs common/problem: linear_workgroup
// needs constants: SLOT, WORKGROUP_SIZE
// needs mask/words: slot_u32
// offers block_bits

@compute @workgroup_size(WORKGROUP_SIZE)
fn block_bits(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    let words = slot_u32(SLOT + 6u);
    let lists = params.batch * slot_u32(SLOT + 1u) * slot_u32(SLOT + 2u);
    if (number >= params.end_workgroup || index >= lists * words) {
        return;
    }
    let word = index % words;
    let count = slot_u32(SLOT + 3u);
    let list = slot_u32(SLOT) + index / words * count;
    let blocks = (params.seq_len_kv + slot_u32(SLOT + 4u) - 1u) / slot_u32(SLOT + 4u);
    var bits = 0u;
    for (var at = list; at < list + count; at += 1u) {
        let block = mask_words[at];
        bits |= select(0u, 1u << (block % 32u), block / 32u == word && block < blocks);
    }
    mask_words[slot_u32(SLOT + 5u) + index] = bits;
}
