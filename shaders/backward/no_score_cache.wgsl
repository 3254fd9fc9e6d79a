// dk and dv are made without what is known here.
fn keep_cells(
    workgroup: u32,
    group: u32,
    kv0: u32,
    lane: u32,
    p: array<f32, SUBGROUP_SIZE>,
    ds: array<f32, SUBGROUP_SIZE>,
) {
}
