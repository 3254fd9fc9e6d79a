// dalibi_slopes, [batch|1, num_heads]: a slope times the distance from the own position is what ALiBi takes from a score.
//
//   dalibi_slopes[b', h] = - sum over the b that have it, q_idx and kv_idx of distance ds
//
// The sum over a row's keys is what the dq pass leaves in its terms. One workgroup per slope.

// needs backward/row_sums: sum_of_rows
// needs bindings: dalibi_slopes, params
// needs common/problem: linear_workgroup
// needs constants: SLOPES_OF_SEQUENCES, WORKGROUP_SIZE
// offers backward_slopes, row_term

fn row_term(row: vec4<f32>, h: u32) -> f32 {
    return row.w;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_slopes(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if (index >= params.end_workgroup) {
        return;
    }
    let b = index / params.num_heads;
    let sequences = select(vec2<u32>(0u, params.batch), vec2<u32>(b, b + 1u), SLOPES_OF_SEQUENCES);
    let sum = sum_of_rows(index % params.num_heads, sequences, invocation);
    if (invocation == 0u) {
        dalibi_slopes[index] = sum;
    }
}
