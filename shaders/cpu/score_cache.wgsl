// The cells that the kernel for dq leaves behind for the one for dk and dv: the weights p, not yet normalized, and the gradients
// ds of scale * q . k, both 0 where nothing is kept. What of them is there is a chunk of rows; tiles that were skipped hold
// anything.
//
// Rows lie as the workgroups that made them are numbered, each with GROUPS of SUBGROUP_SIZE rows, by tiles of as many keys.

// needs bindings: params
// needs constants: GROUPS, SUBGROUP_SIZE
// offers score_cache_at

fn score_cache_at(workgroup: u32, group: u32, kv0: u32) -> u32 {
    let tiles = (params.seq_len_kv + SUBGROUP_SIZE - 1u) / SUBGROUP_SIZE;
    let tile = min(kv0 / SUBGROUP_SIZE, tiles - 1u);
    let place = ((workgroup - params.cells_first_workgroup) * tiles + tile) * GROUPS + group;
    return place * (2u * SUBGROUP_SIZE * SUBGROUP_SIZE);
}
