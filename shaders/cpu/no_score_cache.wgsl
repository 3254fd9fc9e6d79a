// dk and dv are made without what is known here.

// needs constants: SUBGROUP_SIZE
// offers write_score_cache

fn write_score_cache(
    workgroup: u32,
    group: u32,
    kv0: u32,
    lane: u32,
    p: array<f32, SUBGROUP_SIZE>,
    ds: array<f32, SUBGROUP_SIZE>,
) {
}
