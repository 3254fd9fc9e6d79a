// How a workgroup's subgroups share its OWN_BLOCK rows, in kernels of cooperative matrices: each subgroup has a strip of MATRIX
// rows, and each row has as many neighbouring lanes as there are. What passes between lanes of a strip needs no barrier of the
// workgroup.

// needs constants: MATRIX, OWN_BLOCK, SUBGROUPS_ARE_FIXED
// needs generated: lanes_per_row
// offers Lane, lane_of, row_maximum, row_sum

const STRIPS: u32 = OWN_BLOCK / MATRIX;

struct Lane {
    strip: u32,
    // There are enough subgroups of the largest size. If they are smaller, the last ones have no strip.
    has_strip: bool,
    // Of the workgroup's rows.
    row: u32,
    // Which of the row's lanes it is, and how many there are.
    x: u32,
    lanes: u32,
}

fn lane_of(subgroup: u32, invocation: u32, subgroup_size: u32) -> Lane {
    let lanes = lanes_per_row(subgroup_size);
    let has_strip = SUBGROUPS_ARE_FIXED || subgroup < STRIPS;
    return Lane(subgroup, has_strip, subgroup * MATRIX + invocation / lanes, invocation % lanes, lanes);
}

fn row_maximum(own: f32, lanes: u32) -> f32 {
    var most = own;
    for (var step = 1u; step < lanes; step *= 2u) {
        most = max(most, subgroupShuffleXor(most, step));
    }
    return most;
}

fn row_sum(share: f32, lanes: u32) -> f32 {
    var sum = share;
    for (var step = 1u; step < lanes; step *= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}
