// Pass 1 of 3: s = q kᵀ * scale, the future masked: a seq_len x seq_len tensor per head.
// A workgroup makes a tile of 64 x 64 scores, an invocation 4 x 4 of them; 16 components are staged at a time.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>; // [heads, seq_len, HEAD_DIM / 4]
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> s: array<vec4<f32>>; // [heads, seq_len, seq_len / 4]

var<workgroup> q_tile: array<vec4<f32>, 256>; // [4, 64]: components, rows
var<workgroup> k_tile: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn scores(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let x = invocation % 16u;
    let y = invocation / 16u;
    let q0 = workgroup.z * params.seq_len + workgroup.y * 64u;
    let k0 = workgroup.z * params.seq_len + workgroup.x * 64u;

    var sums: array<vec4<f32>, 4>;
    for (var d = 0u; d < HEAD_DIM / 4u; d += 4u) {
        workgroupBarrier();
        let staged = invocation % 4u * 64u + invocation / 4u;
        q_tile[staged] = q[(q0 + invocation / 4u) * (HEAD_DIM / 4u) + d + invocation % 4u];
        k_tile[staged] = k[(k0 + invocation / 4u) * (HEAD_DIM / 4u) + d + invocation % 4u];
        workgroupBarrier();
        for (var i = 0u; i < 4u; i += 1u) {
            let ka = k_tile[i * 64u + x * 4u];
            let kb = k_tile[i * 64u + x * 4u + 1u];
            let kc = k_tile[i * 64u + x * 4u + 2u];
            let kd = k_tile[i * 64u + x * 4u + 3u];
            for (var r = 0u; r < 4u; r += 1u) {
                let row = q_tile[i * 64u + y * 4u + r];
                sums[r] += vec4<f32>(dot(row, ka), dot(row, kb), dot(row, kc), dot(row, kd));
            }
        }
    }
    let kv_idx = workgroup.x * 64u + x * 4u + vec4<u32>(0u, 1u, 2u, 3u);
    for (var r = 0u; r < 4u; r += 1u) {
        let q_idx = workgroup.y * 64u + y * 4u + r;
        let future = (kv_idx > vec4<u32>(q_idx)) & vec4<bool>(params.causal != 0u);
        let row = workgroup.z * params.seq_len + q_idx;
        s[(row * params.seq_len + kv_idx.x) / 4u] =
            select(sums[r] * params.scale, vec4<f32>(-3.0e38), future);
    }
}
