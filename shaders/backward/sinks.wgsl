// dsinks, [num_heads]: a sink has the weight exp(sink - lse) in each row, and no value.
//
//   dsinks[h] = - sum over b and q_idx of exp(sink - lse) delta
//
// One workgroup per head.

// needs backward/row_sums: sum_of_rows
// needs backward/sink_weight: sink_weight
// needs bindings: dsinks, params
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// offers backward_sinks, row_term

fn row_term(row: vec4<f32>, h: u32) -> f32 {
    return -(sink_weight(row.x, h) * row.z * row.y);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_sinks(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let h = linear_workgroup(workgroup, workgroups);
    if (h >= params.end_workgroup) {
        return;
    }
    let sum = sum_of_rows(h, vec2<u32>(0u, params.batch), invocation);
    if (invocation == 0u) {
        dsinks[h] = sum;
    }
}
