// The gradient of a buffer that the user's score function reads, from what the workgroups of custom.wgsl have of each element;
// where not all of them have had their sums at a time, added to what the others gave.
//
// One workgroup per element. Each invocation sums every WORKGROUP_SIZE-th of the workgroups' columns, and the first adds these
// sums up, in order, after the barrier behind which every invocation's element of `sums` is written.

// needs bindings: custom_shares, dcustom, params
// needs common/problem: linear_workgroup
// needs constants: SUM_COLUMNS, WORKGROUP_SIZE
// offers backward_custom_sums

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_custom_sums(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let element = linear_workgroup(workgroup, workgroups);
    if (element >= params.end_workgroup) {
        return;
    }
    var sum = 0.0;
    for (var i = invocation; i < params.num_splits * SUM_COLUMNS; i += WORKGROUP_SIZE) {
        let of_workgroup = i / SUM_COLUMNS * params.part_strides.x;
        sum += custom_shares[of_workgroup + element * SUM_COLUMNS + i % SUM_COLUMNS];
    }
    sums[invocation] = sum;
    workgroupBarrier();
    if (invocation == 0u) {
        let place = element - params.output_base;
        var total = 0.0;
        if (params.cells_first_workgroup != 0u) {
            total = dcustom[place];
        }
        for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
            total += sums[i];
        }
        dcustom[place] = total;
    }
}
