// dsinks, [num_heads]: a sink has the weight exp(sink - lse) in each row, and no value.
//
//   dsinks[h] = - sum over b and q_idx of exp(sink - lse) delta
//
// One workgroup per head; each invocation sums every WORKGROUP_SIZE-th row, and the first adds them up, in order, after the
// barrier behind which every invocation's element of `sums` is written.

// needs backward/sink_weight: sink_weight
// needs bindings: dsinks, params, row_terms
// needs common/problem: linear_workgroup
// needs constants: WORKGROUP_SIZE
// needs sequences/: q_len
// needs sequences/positions: lse_index
// offers backward_sinks

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;

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
    // Runs of 1024 rows are summed apart: a running sum in f32 of n equal terms may be off by n 2^-26 of itself.
    var sum = 0.0;
    for (var b = 0u; b < params.batch; b += 1u) {
        for (var run = invocation; run < q_len(b); run += 1024u * WORKGROUP_SIZE) {
            var run_sum = 0.0;
            for (var q_idx = run; q_idx < min(run + 1024u * WORKGROUP_SIZE, q_len(b)); q_idx += WORKGROUP_SIZE) {
                let row = row_terms[lse_index(b, h, q_idx)];
                run_sum -= sink_weight(row.x, h) * row.z * row.y;
            }
            sum += run_sum;
        }
    }
    sums[invocation] = sum;
    workgroupBarrier();
    if (invocation == 0u) {
        var total = 0.0;
        for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
            total += sums[i];
        }
        dsinks[h] = total;
    }
}
