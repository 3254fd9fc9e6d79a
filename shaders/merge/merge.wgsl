// Puts together what several passes over disjoint sets of keys found for the same rows: splits of one decode pass, or
// whole results.
//
//   M = max m_i,  L = sum l_i 2^((m_i - M) c),  o = sum o_i 2^((m_i - M) c) / L,  lse = ln L + M scale
//
// What has found no key has l_i = 0 and is left out, whatever its o_i is. One invocation per 4 components of a row.

// needs bindings: lse, params
// needs common/nonfinite_sums: scaled
// needs common/online_softmax: LOWEST
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// needs merge/: part_stats
// needs rows/: load_part4, store_o4
// needs score/: row_end
// needs sequences/: q_len, q_place
// needs sequences/positions: row_index
// offers merge

@compute @workgroup_size(WORKGROUP_SIZE)
fn merge(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let width4 = (params.head_dim_v + 3u) / 4u;
    let number = linear_workgroup(workgroup, workgroups);
    let index = number * WORKGROUP_SIZE + invocation;
    let row = index / width4;
    if (number >= params.end_workgroup || row >= params.batch * params.num_heads * params.seq_len_q) {
        return;
    }
    let d = index % width4 * 4u;
    let q_idx = row % params.seq_len_q;
    let h = row / params.seq_len_q % params.num_heads;
    let b = row / params.seq_len_q / params.num_heads;
    if (q_idx >= q_len(b)) {
        return;
    }
    let at = row_index(b, h, q_idx);

    var m = LOWEST;
    for (var i = 0u; i < params.num_splits; i += 1u) {
        let part = part_stats(i, at);
        m = max(m, select(part.x, LOWEST, part.y == 0.0));
    }
    var l = 0.0;
    var o_row = vec4<f32>(0.0);
    for (var i = 0u; i < params.num_splits; i += 1u) {
        let part = part_stats(i, at);
        if (part.y == 0.0) {
            continue;
        }
        let weight = exp2((part.x - m) * params.softmax_scale_log2);
        l = fma(part.y, weight, l);
        o_row += scaled(load_part4(i, 0u, at, d), weight);
    }
    let end = row_end(h, m, l);
    if (d == 0u) {
        lse[at - params.lse_base] = end.lse;
    }
    let place = q_place(b, q_idx);
    store_o4(place.x, h, place.y, d, scaled(o_row, end.norm));
}
