// For self_only_if_alone: the rows whose inner mask, `row_keep`, keeps nothing but the own position.
//
// One invocation per row of [mask_batch, mask_heads, seq_len_q].

// needs bindings: mask_words, params
// needs common/problem: linear_workgroup
// needs constants: SLOT, WORKGROUP_SIZE
// needs generated: row_keep
// needs mask/self_only_if_alone: self_only_if_alone_row
// needs sequences/: kv_len
// needs sequences/positions: own_position
// offers rows_alone

@compute @workgroup_size(WORKGROUP_SIZE)
fn rows_alone(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let number = linear_workgroup(workgroup, workgroups);
    let row = number * WORKGROUP_SIZE + invocation;
    if (number >= params.end_workgroup || row >= params.mask_batch * params.mask_heads * params.seq_len_q) {
        return;
    }
    let q_idx = row % params.seq_len_q;
    let h = row / params.seq_len_q % params.mask_heads;
    let b = row / params.seq_len_q / params.mask_heads;
    let own = own_position(b, q_idx);
    var alone = true;
    for (var kv_idx = 0u; kv_idx < kv_len(b) && alone; kv_idx += 1u) {
        alone = i32(kv_idx) == own || !row_keep(b, h, q_idx, kv_idx);
    }
    mask_words[self_only_if_alone_row(SLOT, b, h, q_idx)] = select(0u, 1u, alone);
}
