// y = x Wᵀ for few rows, with what epilogue.wgsl does to the sums: weights are read once, and reading them is the work.
//
// LANES invocations share two outputs, for which they read x once: each sums its quads of the columns for all ROWS rows, then
// one of them per row and output adds the lanes' sums.

const LANES: u32 = 16u;
const PAIRS: u32 = WORKGROUP_SIZE / LANES;

var<workgroup> partial: array<vec2<f32>, ROWS * WORKGROUP_SIZE>; // [ROWS, PAIRS, LANES]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let lane = invocation % LANES;
    let output = 2u * (workgroup.x * PAIRS + invocation / LANES);
    // The last output again where their number is odd.
    let second = min(output + 1u, sizes.outputs - 1u);
    var sums: array<vec2<f32>, ROWS>;
    if output < sizes.outputs {
        for (var column4 = lane; column4 < sizes.columns4; column4 += LANES) {
            let w = weights_at(output, column4);
            let w2 = weights_at(second, column4);
            for (var row = 0u; row < ROWS; row += 1u) {
                // The last row again where there are no more.
                let values = x[min(row, sizes.rows - 1u) * sizes.columns4 + column4];
                sums[row] += vec2<f32>(dot(w, values), dot(w2, values));
            }
        }
    }
    for (var row = 0u; row < ROWS; row += 1u) {
        partial[row * WORKGROUP_SIZE + invocation] = sums[row];
    }
    workgroupBarrier();
    if output < sizes.outputs && lane < min(ROWS, sizes.rows) {
        let first = lane * WORKGROUP_SIZE + invocation - lane;
        var sum = vec2<f32>();
        for (var i = 0u; i < LANES; i += 1u) {
            sum += partial[first + i];
        }
        finish(lane, output, sum.x);
        if second > output {
            finish(lane, second, sum.y);
        }
    }
}
