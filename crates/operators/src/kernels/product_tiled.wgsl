// y = x Wᵀ for many rows, with what epilogue.wgsl does to the sums.
//
// A workgroup has a tile of 32 rows and 64 outputs, an invocation 4 rows × 8 outputs of it in registers:
//
//   for each 16 columns of x and W:
//     stage both tiles in workgroup memory, weights decoded
//     for each 4 of the columns: read 4 quads of x and 8 of W, multiply each with each
//
// Invocations that are neighbours read neighbouring quads of workgroup memory, or the same one.

const TILE_ROWS: u32 = 32u;
const TILE_OUTPUTS: u32 = 64u;
const STEPS4: u32 = 4u;

var<workgroup> tile_x: array<vec4<f32>, TILE_ROWS * STEPS4>; // [STEPS4, TILE_ROWS]
var<workgroup> tile_w: array<vec4<f32>, TILE_OUTPUTS * STEPS4>; // [STEPS4, TILE_OUTPUTS]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let first_output = workgroup.x * TILE_OUTPUTS;
    let first_row = workgroup.y * TILE_ROWS;
    let output0 = invocation % 8u;
    let row0 = invocation / 8u;
    var sums: array<f32, 32>; // [4 rows, 8 outputs]
    for (var step4 = 0u; step4 < sizes.columns4; step4 += STEPS4) {
        for (var i = invocation; i < TILE_ROWS * STEPS4; i += WORKGROUP_SIZE) {
            let column4 = step4 + i % STEPS4;
            let row = first_row + i / STEPS4;
            var quad = vec4<f32>();
            if column4 < sizes.columns4 && row < sizes.rows {
                quad = x[row * sizes.columns4 + column4];
            }
            tile_x[i % STEPS4 * TILE_ROWS + i / STEPS4] = quad;
        }
        for (var i = invocation; i < TILE_OUTPUTS * STEPS4; i += WORKGROUP_SIZE) {
            let column4 = step4 + i % STEPS4;
            let output = first_output + i / STEPS4;
            var quad = vec4<f32>();
            if column4 < sizes.columns4 && output < sizes.outputs {
                quad = weights_at(output, column4);
            }
            tile_w[i % STEPS4 * TILE_OUTPUTS + i / STEPS4] = quad;
        }
        workgroupBarrier();
        for (var s = 0u; s < STEPS4; s += 1u) {
            var w: array<vec4<f32>, 8>;
            for (var j = 0u; j < 8u; j += 1u) {
                w[j] = tile_w[s * TILE_OUTPUTS + output0 + 8u * j];
            }
            for (var i = 0u; i < 4u; i += 1u) {
                let quad = tile_x[s * TILE_ROWS + row0 + 8u * i];
                for (var j = 0u; j < 8u; j += 1u) {
                    var sum = fma(quad.x, w[j].x, sums[i * 8u + j]);
                    sum = fma(quad.y, w[j].y, sum);
                    sum = fma(quad.z, w[j].z, sum);
                    sums[i * 8u + j] = fma(quad.w, w[j].w, sum);
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i += 1u) {
        for (var j = 0u; j < 8u; j += 1u) {
            let row = first_row + row0 + 8u * i;
            let output = first_output + output0 + 8u * j;
            if row < sizes.rows && output < sizes.outputs {
                finish(row, output, sums[i * 8u + j]);
            }
        }
    }
}
