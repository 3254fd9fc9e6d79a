// What the backward pass needs of each row (FlashAttention-2, arXiv 2307.08691, algorithm 2, line 4), once for all of
// its keys:
//
//   delta = sum over d of dout o, - dlse
//
// One invocation per row of [batch, num_heads, seq_len_q].

// needs bindings: lse, params, row_terms
// needs common/problem: EXPONENT_BITS, SIGN_BIT, linear_workgroup
// needs constants: NOTHING_KEPT, WORKGROUP_SIZE
// needs generated: dlse_of
// needs rows/: load_dout4, load_o4
// needs sequences/: q_len, q_place
// needs sequences/positions: lse_index
// {{OWN}} needs sequences/own_rows: is_of_other_window
// offers backward_terms

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_terms(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    // A head's rows are rounded up to whole workgroups: the rows of one lie together, whatever the strides are.
    let index = linear_workgroup(workgroup, workgroups);
    let head_workgroups = (params.seq_len_q + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let q_idx = index % head_workgroups * WORKGROUP_SIZE + invocation;
    let h = index / head_workgroups % params.num_heads;
    let b = index / head_workgroups / params.num_heads;
    if (index >= params.end_workgroup || q_idx >= q_len(b)) {
        return;
    }
    let place = q_place(b, q_idx);
    {{OWN}} if (is_of_other_window(place.y)) {
    {{OWN}}     return;
    {{OWN}} }
    let at = lse_index(b, h, q_idx);

    var delta = 0.0;
    for (var d = 0u; d < params.head_dim_v; d += 4u) {
        let y = load_o4(place.x, h, place.y, d);
        // An output of exactly 0 has no share, whatever dout holds: so it is where a row keeps nothing.
        let x = select(load_dout4(place.x, h, place.y, d), vec4<f32>(0.0), y == vec4<f32>(0.0));
        delta = fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, delta))));
    }
    delta -= dlse_of(at);
    let row_lse = lse[at];
    let empty = bitcast<u32>(row_lse) == (EXPONENT_BITS | SIGN_BIT);
    row_terms[at] = vec4<f32>(select(row_lse, NOTHING_KEPT, empty), delta, 1.0, 0.0);
}
