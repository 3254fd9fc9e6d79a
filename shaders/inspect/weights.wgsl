// Softmax of rows of scores, in place: what inspect/scores.wgsl left there becomes weights.
//
//   m = max s,  l = sum 2^((s - m) c),  weight = 2^((s - m) c) / l
//
// Cells that aren't kept hold -inf, and get 0. Rows add up to 1 however large their scores are: exp(s - lse) would carry
// the rounding of lse, which is large where lse is.
//
// One workgroup per row; `shares` is written by each invocation, a barrier before all are read, and again behind a barrier.

// needs bindings: output, params
// needs common/online_softmax: LOWEST
// needs common/problem: EXPONENT_BITS, NAN_BITS, SIGN_BIT, linear_workgroup
// needs constants: WORKGROUP_SIZE
// needs score/: row_end
// {{DROPOUT}} needs score/dropout: dropout_factor, dropout_row
// offers weights

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;
// Not 0: some kept score isn't finite. 16 bytes, so that drivers see what lies behind it as aligned.
var<workgroup> undefined: array<atomic<u32>, 4>;

fn is_kept(score: f32) -> bool {
    return bitcast<u32>(score) != (EXPONENT_BITS | SIGN_BIT);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn weights(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let row = linear_workgroup(workgroup, workgroups);
    if (row >= params.end_workgroup) {
        return;
    }
    let h = row / params.seq_len_q % params.num_heads;
    let first = row * params.seq_len_kv - params.output_base;

    if (invocation == 0u) {
        atomicStore(&undefined[0], 0u);
    }
    var own_m = LOWEST;
    var found_nonfinite = false;
    for (var i = invocation; i < params.seq_len_kv; i += WORKGROUP_SIZE) {
        let score = output[first + i];
        if (is_kept(score)) {
            own_m = max(own_m, score);
            found_nonfinite |= (bitcast<u32>(score) & EXPONENT_BITS) == EXPONENT_BITS;
        }
    }
    shares[invocation] = own_m;
    workgroupBarrier();
    if (found_nonfinite) {
        atomicOr(&undefined[0], 1u);
    }
    var m = LOWEST;
    for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
        m = max(m, shares[i]);
    }
    workgroupBarrier();

    var own_l = 0.0;
    for (var i = invocation; i < params.seq_len_kv; i += WORKGROUP_SIZE) {
        let score = output[first + i];
        if (is_kept(score)) {
            own_l += exp2((score - m) * params.softmax_scale_log2);
        }
    }
    shares[invocation] = own_l;
    workgroupBarrier();
    var l = 0.0;
    for (var i = 0u; i < WORKGROUP_SIZE; i += 1u) {
        l += shares[i];
    }

    let norm = row_end(h, m, l).norm;
    let is_undefined = atomicLoad(&undefined[0]) != 0u;
    {{DROPOUT}} let dropped_row = dropout_row(row / params.seq_len_q / params.num_heads, h, row % params.seq_len_q);
    for (var i = invocation; i < params.seq_len_kv; i += WORKGROUP_SIZE) {
        let score = output[first + i];
        var weight = 0.0;
        if (is_kept(score)) {
            weight = exp2((score - m) * params.softmax_scale_log2) * norm;
            weight = select(weight, bitcast<f32>(NAN_BITS | bitcast<u32>(score)), is_undefined);
            {{DROPOUT}} weight *= dropout_factor(dropped_row, i);
        }
        output[first + i] = weight;
    }
}
