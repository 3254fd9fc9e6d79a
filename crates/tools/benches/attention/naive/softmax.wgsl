// Pass 2 of 3: s = softmax(s), in place, a workgroup per row.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> s: array<vec4<f32>>; // [heads, seq_len, seq_len / 4]

const INVOCATIONS: u32 = 64u;
var<workgroup> shared_values: array<f32, INVOCATIONS>;

@compute @workgroup_size(INVOCATIONS)
fn softmax(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let length = params.seq_len / 4u;
    let row = (workgroup.y * params.seq_len + workgroup.x) * length;

    var most = vec4<f32>(-3.0e38);
    for (var i = invocation; i < length; i += INVOCATIONS) {
        most = max(most, s[row + i]);
    }
    shared_values[invocation] = max(max(most.x, most.y), max(most.z, most.w));
    for (var half = INVOCATIONS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (invocation < half) {
            shared_values[invocation] =
                max(shared_values[invocation], shared_values[invocation + half]);
        }
    }
    workgroupBarrier();
    let largest = shared_values[0];
    workgroupBarrier();

    var sums = vec4<f32>(0.0);
    for (var i = invocation; i < length; i += INVOCATIONS) {
        let e = exp(s[row + i] - largest);
        s[row + i] = e;
        sums += e;
    }
    shared_values[invocation] = sums.x + sums.y + sums.z + sums.w;
    for (var half = INVOCATIONS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (invocation < half) {
            shared_values[invocation] += shared_values[invocation + half];
        }
    }
    workgroupBarrier();
    let norm = 1.0 / shared_values[0];

    for (var i = invocation; i < length; i += INVOCATIONS) {
        s[row + i] *= norm;
    }
}
