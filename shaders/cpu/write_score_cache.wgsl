// A lane's own row of a tile.

// needs bindings: score_cache
// needs constants: SUBGROUP_SIZE
// needs cpu/score_cache: score_cache_at
// offers write_score_cache

fn write_score_cache(
    workgroup: u32,
    group: u32,
    kv0: u32,
    lane: u32,
    p: array<f32, SUBGROUP_SIZE>,
    ds: array<f32, SUBGROUP_SIZE>,
) {
    let at = score_cache_at(workgroup, group, kv0) + lane * SUBGROUP_SIZE;
    for (var j = 0u; j < SUBGROUP_SIZE; j += 1u) {
        score_cache[at + j] = p[j];
        score_cache[at + SUBGROUP_SIZE * SUBGROUP_SIZE + j] = ds[j];
    }
}
