// dbias where all keys share an element: the invocations' sums of a row are added up, in order.
//
// Each element of `shares` is written by its invocation; behind the first barrier the first TILE_ROWS invocations read a
// row each and leave its sum in the row's first element, which all read behind the second.

// needs constants: TILE_ROWS, WORKGROUP_SIZE
// offers summed_along_keys

var<workgroup> shares: array<f32, TILE_ROWS * WORKGROUP_SIZE>;

fn summed_along_keys(sums: array<f32, TILE_ROWS>, invocation: u32) -> array<f32, TILE_ROWS> {
    var totals = sums;
    for (var r = 0u; r < TILE_ROWS; r += 1u) {
        shares[r * WORKGROUP_SIZE + invocation] = totals[r];
    }
    workgroupBarrier();
    if (invocation < TILE_ROWS) {
        var total = 0.0;
        for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
            total += shares[invocation * WORKGROUP_SIZE + i];
        }
        shares[invocation * WORKGROUP_SIZE] = total;
    }
    workgroupBarrier();
    for (var r = 0u; r < TILE_ROWS; r += 1u) {
        totals[r] = shares[r * WORKGROUP_SIZE];
    }
    return totals;
}
