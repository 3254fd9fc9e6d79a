// c = a b, or c += a b; either factor may lie transposed.
//
// An invocation has ROWS x 4 elements of c in registers and takes 4 steps of the sum at once:
//
//   b4 <- b[s..s+4, its 4 columns]
//   for its rows, 4 at a time: c4 += a[rows, s..s+4] b4
//
// All invocations of a workgroup have the same rows, so that what they read of a is the same for all.
// Sizes of columns and sums are multiples of 4; so are the rows, where a lies transposed.

struct Sizes {
    rows: u32,
    columns: u32,
    steps: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [rows, steps], or [steps, rows]
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>; // [steps, columns], or [columns, steps]
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>; // [rows, columns]

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let column4 = workgroup.x * WORKGROUP_SIZE + invocation;
    let row0 = workgroup.y * ROWS;
    if column4 >= sizes.columns / 4u {
        return;
    }
    var sums: array<vec4<f32>, ROWS>;
    for (var step4 = 0u; step4 < sizes.steps / 4u; step4 += 1u) {
        let b4 = load_b(step4, column4);
        for (var row = 0u; row < ROWS; row += 4u) {
            let a4 = load_a(row0 + row, step4);
            for (var i = 0u; i < 4u; i += 1u) {
                sums[row + i] = fma(vec4<f32>(a4[i].x), b4[0], sums[row + i]);
                sums[row + i] = fma(vec4<f32>(a4[i].y), b4[1], sums[row + i]);
                sums[row + i] = fma(vec4<f32>(a4[i].z), b4[2], sums[row + i]);
                sums[row + i] = fma(vec4<f32>(a4[i].w), b4[3], sums[row + i]);
            }
        }
    }
    for (var row = 0u; row < ROWS; row += 1u) {
        if row0 + row < sizes.rows {
            let index = (row0 + row) * (sizes.columns / 4u) + column4;
            if ACCUMULATE {
                c[index] += sums[row];
            } else {
                c[index] = sums[row];
            }
        }
    }
}

/// 4 rows of a, 4 steps each; the last row again where there are no more.
fn load_a(row: u32, step4: u32) -> mat4x4<f32> {
    var rows: mat4x4<f32>;
    if A_TRANSPOSED {
        let row4 = min(row, sizes.rows - 1u) / 4u;
        for (var i = 0u; i < 4u; i += 1u) {
            rows[i] = a[(step4 * 4u + i) * (sizes.rows / 4u) + row4];
        }
        return transpose(rows);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        rows[i] = a[min(row + i, sizes.rows - 1u) * (sizes.steps / 4u) + step4];
    }
    return rows;
}

/// 4 steps of b, 4 columns each.
fn load_b(step4: u32, column4: u32) -> mat4x4<f32> {
    var steps: mat4x4<f32>;
    if B_TRANSPOSED {
        for (var i = 0u; i < 4u; i += 1u) {
            steps[i] = b[(column4 * 4u + i) * (sizes.steps / 4u) + step4];
        }
        return transpose(steps);
    }
    for (var i = 0u; i < 4u; i += 1u) {
        steps[i] = b[(step4 * 4u + i) * (sizes.columns / 4u) + column4];
    }
    return steps;
}
