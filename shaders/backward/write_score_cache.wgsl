// A lane's own row of a tile.
fn keep_cells(
    workgroup: u32,
    group: u32,
    kv0: u32,
    lane: u32,
    p: array<f32, SUBGROUP_SIZE>,
    ds: array<f32, SUBGROUP_SIZE>,
) {
    let at = cells_at(workgroup, group, kv0) + lane * SUBGROUP_SIZE;
    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
        cells[at + j] = p[j];
        cells[at + SUBGROUP_SIZE * SUBGROUP_SIZE + j] = ds[j];
    }
}
