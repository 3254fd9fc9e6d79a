// Pass 3 of 3: o = p v. A workgroup makes 64 rows of o, an invocation 4 components of 4 of them; 16 keys are staged at
// a time.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<vec4<f32>>; // [heads, seq_len, seq_len / 4]
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>; // [heads, seq_len, HEAD_DIM / 4]
@group(0) @binding(3) var<storage, read_write> o: array<vec4<f32>>;

var<workgroup> p_tile: array<vec4<f32>, 256>; // [4, 64]: keys, rows
var<workgroup> v_tile: array<vec4<f32>, 256>; // [16, HEAD_DIM / 4]: keys, components

@compute @workgroup_size(256)
fn values(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let x = invocation % 16u;
    let y = invocation / 16u;
    let head = workgroup.y * params.seq_len;
    let q0 = head + workgroup.x * 64u;

    var sums: array<vec4<f32>, 4>;
    for (var kv0 = 0u; kv0 < params.seq_len; kv0 += 16u) {
        workgroupBarrier();
        p_tile[invocation % 4u * 64u + invocation / 4u] =
            p[((q0 + invocation / 4u) * params.seq_len + kv0) / 4u + invocation % 4u];
        v_tile[invocation] = v[(head + kv0) * (HEAD_DIM / 4u) + invocation];
        workgroupBarrier();
        for (var i = 0u; i < 4u; i += 1u) {
            let va = v_tile[(i * 4u) * 16u + x];
            let vb = v_tile[(i * 4u + 1u) * 16u + x];
            let vc = v_tile[(i * 4u + 2u) * 16u + x];
            let vd = v_tile[(i * 4u + 3u) * 16u + x];
            for (var r = 0u; r < 4u; r += 1u) {
                let weight = p_tile[i * 64u + y * 4u + r];
                sums[r] += weight.x * va + weight.y * vb + weight.z * vc + weight.w * vd;
            }
        }
    }
    for (var r = 0u; r < 4u; r += 1u) {
        o[(q0 + y * 4u + r) * (HEAD_DIM / 4u) + x] = sums[r];
    }
}
