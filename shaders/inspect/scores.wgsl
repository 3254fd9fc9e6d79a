// The batch x heads x T x T tensors that people draw, cell by cell, from the same scores and mask as the forward pass.
//
//   scores         s = (q k^T) * scale
//   masked scores  s, modified, where kept, else -inf
//   weights        what inspect/weights.wgsl makes them of: masked scores in units of softmax_scale
//
// Cells beyond the ends of a sequence hold what masked ones do, and scores of 0.
//
// One invocation per cell; params.output_mode says which tensor.

// needs bindings: output, params
// needs common/problem: linear_workgroup
// needs constants: MODIFIED, WORKGROUP_SIZE
// needs generated: mask_keep, modified_score
// needs rows/: load_k4, load_q4
// needs sequences/: kv_len, kv_place, q_len, q_place
// offers inspect

const SCORES: u32 = 0u;
const WEIGHTS: u32 = 2u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn inspect(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    // A row's cells are rounded up to whole workgroups, so that the index fits 32 bits wherever the row's number does.
    let row_workgroups = (params.seq_len_kv + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let index = linear_workgroup(workgroup, workgroups);
    let row = index / row_workgroups;
    let kv_idx = index % row_workgroups * WORKGROUP_SIZE + invocation;
    if (index >= params.end_workgroup || kv_idx >= params.seq_len_kv) {
        return;
    }
    let q_idx = row % params.seq_len_q;
    let h = row / params.seq_len_q % params.num_heads;
    let b = row / params.seq_len_q / params.num_heads;

    if (q_idx >= q_len(b) || kv_idx >= kv_len(b)) {
        let masked = params.output_mode != SCORES;
        output[row * params.seq_len_kv + kv_idx - params.output_base] = select(0.0, params.negative_infinity, masked);
        return;
    }
    let q_at = q_place(b, q_idx);
    let k_at = kv_place(b, kv_idx);
    var dot_product = 0.0;
    for (var d = 0u; d < params.head_dim; d += 4u) {
        let x = load_q4(q_at.x, h, q_at.y, d) * params.scale_sign;
        let y = load_k4(k_at.x, h / params.group_size, k_at.y, d);
        dot_product = fma(x.w, y.w, fma(x.z, y.z, fma(x.y, y.y, fma(x.x, y.x, dot_product))));
    }
    // A score in units of softmax_scale.
    var score = dot_product;
    var unit = params.scale_abs;
    if (MODIFIED && params.output_mode != SCORES) {
        score = modified_score(dot_product, b, h, q_idx, kv_idx);
        unit = params.softmax_scale;
    }
    let keep = (params.output_mode == SCORES) || mask_keep(b, h, q_idx, kv_idx);
    if (params.output_mode == WEIGHTS) {
        unit = 1.0;
    }
    output[row * params.seq_len_kv + kv_idx - params.output_base] = select(params.negative_infinity, score * unit, keep);
}
