// Multiply-adds and nothing else: 3 independent vec4 per invocation, which hide the latency of a unit that takes one
// every cycle, and stay in registers. 32 rounds of them to a turn of the loop, so that the loop costs little even where a
// driver for CPUs merges what each turn changed by the mask of lanes; the inner loop is for the drivers to unroll.

// offers multiply_add, storage, uniform

struct Params { turns: u32, x: f32, y: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>; // [invocations]

const WORKGROUP_SIZE: u32 = 64u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn multiply_add(@builtin(global_invocation_id) id: vec3<u32>) {
    let x = vec4<f32>(params.x);
    let y = vec4<f32>(params.y);
    var a = vec4<f32>(f32(id.x), 1.0, 2.0, 3.0);
    var b = a + 4.0;
    var c = a + 8.0;
    for (var turn = 0u; turn < params.turns; turn += 1u) {
        for (var part = 0u; part < 4u; part += 1u) {
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
            a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y);
        }
    }
    let sum = a + b + c;
    sums[id.x] = sum.x + sum.y + sum.z + sum.w;
}
